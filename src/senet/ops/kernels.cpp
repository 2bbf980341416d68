// The operators of the residual tail, for the CPU. `plain.py` says what each computes; `cpu.py` compiles this file, once
// for each type of feature map (SENET_TYPE).
//
// Shapes: feature maps (N, M, C) in channels-last memory, (N, C, M) otherwise, where M = H * W. A[c] is a vector over
// channels, A[n, c] a matrix. Sums are accumulated in `acc`: float for 16- and 32-bit data, double for double.
//
// A pass over a feature map is a loop over tiles that fit the second-level cache. Where two passes follow each other, the
// second walks backwards and finds in the last-level cache what the first has read last.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

using Index = std::int64_t;

struct bf16 {
  std::uint16_t bits;
};
#if defined(__FLT16_MAX__)
using half = _Float16;
#else
struct half {};  // the compiler has none, and compiling for it fails
#endif

template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class T>
using acc_of = typename accumulator<T>::type;

template <class T>
inline acc_of<T> load(T x) {
  return static_cast<acc_of<T>>(x);
}
inline float load(bf16 x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
inline void store(T& to, acc_of<T> x) {
  to = static_cast<T>(x);
}
inline void store(bf16& to, float x) {  // rounds to nearest, ties to even; NaN stays NaN
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.bits = static_cast<std::uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

struct Shape {
  Index n, c, m;
  bool channels_last;
  int threads;

  Index lines() const { return channels_last ? m : c; }  // contiguous in memory: the channels of a position, or
  Index width() const { return channels_last ? c : m; }  // the positions of a channel
  int threads_for(Index values) const { return values < 32 * 1024 ? 1 : threads; }
};

// How an image is cut: `tiles` pieces of `rows` lines.
struct Tiling {
  Index rows, tiles;
};

template <class T>
Tiling tiling(const Shape& s) {
  constexpr Index cache_bytes = 128 * 1024;
  const Index most = std::clamp<Index>(cache_bytes / (s.width() * Index(sizeof(T))), 1, s.lines());
  const Index tiles = (s.lines() + most - 1) / most, rows = (s.lines() + tiles - 1) / tiles;
  return {rows, (s.lines() + rows - 1) / rows};
}

// Calls f(image, first line, number of lines) for every tile; from the back if `backwards`.
template <class F>
void for_each_tile(const Shape& s, const Tiling& t, bool backwards, F f) {
  const Index total = s.n * t.tiles;
#pragma omp parallel for num_threads(s.threads_for(s.n * s.c * s.m)) schedule(static)
  for (Index i = 0; i < total; ++i) {
    const Index k = backwards ? total - 1 - i : i, image = k / t.tiles, first = k % t.tiles * t.rows;
    f(image, first, std::min(t.rows, s.lines() - first));
  }
}

// A new feature map costs more in page faults than in arithmetic: 31 of the 42 ms of a pass over three maps of 51 MB.
// With large pages there are 512 times fewer.
void use_large_pages(void* data, Index bytes) {
#if defined(__linux__)
  constexpr std::uintptr_t page = 2 << 20;
  const std::uintptr_t start = (reinterpret_cast<std::uintptr_t>(data) + page - 1) & ~(page - 1);
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(data) + bytes) & ~(page - 1);
  if (end > start) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// Calls f(first line, constant of how many) for the lines of a tile, four at a time: each sum is then read and written
// once in four, which halves the time at 16 channels.
template <int v>
struct constant {
  static constexpr int value = v;
};
template <class F>
inline void for_each_four(Index lines, F f) {
  Index r = 0;
  for (; r + 4 <= lines; r += 4) f(r, constant<4>{});
  for (; r < lines; ++r) f(r, constant<1>{});
}

// ---- moments: mean[n, c] and centered second moment q[n, c] -----------------------------------------------------------

template <class T>
void moments(const Shape& s, const T* u, acc_of<T>* mean, acc_of<T>* q) {
  using acc = acc_of<T>;
  const Tiling t = tiling<T>(s);
  if (!s.channels_last) {
    for_each_tile(s, t, false, [&](Index n, Index first, Index lines) {
      for (Index c = first; c < first + lines; ++c) {
        const T* x = u + (n * s.c + c) * s.m;
        acc sum = 0, rest = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (Index i = 0; i < s.m; ++i) sum += load(x[i]);
        const acc center = sum / acc(s.m);
        mean[n * s.c + c] = center;
        if (!q) continue;
#pragma omp simd reduction(+ : rest, squares)
        for (Index i = 0; i < s.m; ++i) {
          const acc d = load(x[i]) - center;
          rest += d;
          squares += d * d;
        }
        rest /= acc(s.m);  // what rounding left of the mean
        mean[n * s.c + c] = center + rest;
        q[n * s.c + c] = squares / acc(s.m) - rest * rest;
      }
    });
    return;
  }
  // The mean and the centered moment of each tile, then of the tiles (Chan et al., 1979): nothing cancels. Within a tile
  // values are taken relative to its first line, or once more to the mean where that line was far from the others.
  std::vector<acc> means(s.n * t.tiles * s.c), squares(q ? s.n * t.tiles * s.c : 0);
  for_each_tile(s, t, false, [&](Index n, Index first, Index rows) {
    const T* __restrict x = u + (n * s.m + first) * s.c;
    acc* __restrict center = means.data() + (n * t.tiles + first / t.rows) * s.c;
    acc* __restrict square = q ? squares.data() + (n * t.tiles + first / t.rows) * s.c : nullptr;
    std::vector<acc> origins(s.c);
    acc* __restrict origin = origins.data();
    for (Index c = 0; c < s.c; ++c) origin[c] = load(x[c]);
    const auto sum_tile = [&](Index r, auto count) {
      const T* __restrict line = x + r * s.c;
      if (!q) {
#pragma omp simd
        for (Index c = 0; c < s.c; ++c) {
          acc sum = center[c];
          for (int k = 0; k < count.value; ++k) sum += load(line[k * s.c + c]) - origin[c];
          center[c] = sum;
        }
        return;
      }
#pragma omp simd
      for (Index c = 0; c < s.c; ++c) {
        acc sum = center[c], sum_of_squares = square[c];
        for (int k = 0; k < count.value; ++k) {
          const acc d = load(line[k * s.c + c]) - origin[c];
          sum += d;
          sum_of_squares += d * d;
        }
        center[c] = sum;
        square[c] = sum_of_squares;
      }
    };
    for_each_four(rows, sum_tile);
    bool far = false;
    for (Index c = 0; q && c < s.c; ++c) {
      const acc of_mean = center[c] * center[c] / acc(rows);
      far |= of_mean > 16 * (square[c] - of_mean);  // more than four deviations
    }
    if (far) {
      for (Index c = 0; c < s.c; ++c) origin[c] += center[c] / acc(rows);
      std::fill_n(center, s.c, acc(0));
      std::fill_n(square, s.c, acc(0));
      for_each_four(rows, sum_tile);
    }
    for (Index c = 0; c < s.c; ++c) {
      const acc d = center[c] / acc(rows);
      center[c] = origin[c] + d;
      if (q) square[c] -= acc(rows) * d * d;
    }
  });
#pragma omp parallel for num_threads(s.threads_for(s.n * t.tiles * s.c)) schedule(static)
  for (Index n = 0; n < s.n; ++n) {
    acc* __restrict center = mean + n * s.c;
    std::fill_n(center, s.c, acc(0));
    for (Index k = 0; k < t.tiles; ++k) {
      const acc share = acc(std::min(t.rows, s.m - k * t.rows)) / acc(s.m);
      const acc* __restrict part = means.data() + (n * t.tiles + k) * s.c;
      for (Index c = 0; c < s.c; ++c) center[c] += share * part[c];
    }
    if (!q) continue;
    acc* __restrict square = q + n * s.c;
    std::fill_n(square, s.c, acc(0));
    for (Index k = 0; k < t.tiles; ++k) {
      const acc share = acc(std::min(t.rows, s.m - k * t.rows)) / acc(s.m);
      const acc* __restrict part = means.data() + (n * t.tiles + k) * s.c;
      const acc* __restrict part_q = squares.data() + (n * t.tiles + k) * s.c;
      for (Index c = 0; c < s.c; ++c)
        square[c] += part_q[c] / acc(s.m) + share * (part[c] - center[c]) * (part[c] - center[c]);
    }
  }
}

// ---- what the other kernels know of a channel ------------------------------------------------------------------------

// (x - center) * scale + shift, with scale and shift of an image and channel or, with `stride` 0, of a channel.
template <class acc>
struct Affine {
  const acc *center, *scale, *shift;
  Index stride;
};

// A gradient: g * P + (x - center) * Q + R, with P and R of an image and channel or, with `stride` 0, of a channel.
template <class acc>
struct Slope {
  const acc *center, *P, *Q, *R;
  Index stride;
};

enum Shortcut { kNone, kPlain, kAffine };  // what is added to the branch: nothing, a map, an affine function of one
enum Sign { kAll, kOfY, kOfAffine };       // where dy counts: everywhere, where y is positive, or where affine(u) is

// The vectors from one image and channel on.
template <class acc>
inline Affine<acc> at(const Affine<acc>& a, Index n, Index c) {
  return {a.center + c, a.scale + n * a.stride + c, a.shift + n * a.stride + c, 0};
}
template <class acc>
inline Slope<acc> at(const Slope<acc>& s, Index n, Index c) {
  return {s.center + c, s.P + n * s.stride + c, s.Q + c, s.R + n * s.stride + c, 0};
}
template <class acc>
inline acc affine(const Affine<acc>& a, Index c, acc x) {
  return (x - a.center[c]) * a.scale[c] + a.shift[c];
}
template <class acc>
inline acc slope(const Slope<acc>& s, Index c, acc g, acc x) {
  return g * s.P[c] + (x - s.center[c]) * s.Q[c] + s.R[c];
}

// Calls f(first channel, offset of the first value) for every line of a tile.
template <class F>
inline void for_each_line(const Shape& s, Index n, Index first, Index lines, F f) {
  for (Index r = first; r < first + lines; ++r)
    f(s.channels_last ? 0 : r, (n * s.lines() + r) * s.width());
}

// ---- apply: y = relu(affine(u) + shortcut) ---------------------------------------------------------------------------

template <class T, Shortcut kind, bool relu, bool last>
void apply(const Shape& s, const T* u, const Affine<acc_of<T>>& a, const T* shortcut, const Affine<acc_of<T>>& b,
           T* y) {
  using acc = acc_of<T>;
  for_each_tile(s, tiling<T>(s), true, [&](Index n, Index first, Index lines) {
    for_each_line(s, n, first, lines, [&](Index channel, Index offset) {
      const Affine<acc> line = at(a, n, channel), other = at(kind == kAffine ? b : a, n, channel);
      const T *__restrict x = u + offset, *__restrict w = shortcut + offset;
      T* __restrict out = y + offset;
      const Index width = s.width();
#pragma omp simd
      for (Index i = 0; i < width; ++i) {
        const Index c = last ? i : 0;
        acc value = affine(line, c, load(x[i]));
        if (kind == kPlain) value += load(w[i]);
        if (kind == kAffine) value += affine(other, c, load(w[i]));
        store(out[i], relu && value < 0 ? acc(0) : value);  // a NaN stays
      }
    });
  });
}

// ---- sums: A[n, c] = sum g, B[n, c] = sum g (u - center), W[n, c] = sum g (w - its center) over positions -------------
// g is dy where it counts. With the sign of y it is kept: it is the shortcut's gradient, or on the way to it.

template <class T, Sign sign, bool with_w, bool last>
void sums(const Shape& s, const T* dy, const T* u, const Affine<acc_of<T>>& a, const T* y, const T* shortcut,
          const acc_of<T>* shortcut_center, acc_of<T>* A, acc_of<T>* B, acc_of<T>* W, T* g) {
  using acc = acc_of<T>;
  const Tiling t = tiling<T>(s);
  constexpr Index parts = with_w ? 3 : 2;
  std::vector<acc> partial(last ? parts * s.n * t.tiles * s.c : 0);
  for_each_tile(s, t, false, [&](Index n, Index first, Index lines) {
    acc* __restrict pa = partial.data() + parts * (n * t.tiles + first / t.rows) * s.c;
    acc *__restrict pb = pa + s.c, *__restrict pw = pb + s.c;
    const auto lines_at = [&](Index row, Index channel, auto count) {
      const Affine<acc> line = at(a, n, channel);
      const acc* other = shortcut_center + channel;
      const Index offset = (n * s.lines() + row) * s.width(), width = s.width();
      const T *__restrict dout = dy + offset, *__restrict out = y + offset;
      const T *__restrict x = u + offset, *__restrict w = shortcut + offset;
      T* __restrict kept = g + offset;
      const auto gradient = [&](Index i, Index c) {
        const acc of_y = load(dout[i]);
        acc value = of_y;
        if (sign == kOfY) value = load(out[i]) <= 0 ? acc(0) : of_y;  // where it is NaN, of_y passes
        if (sign == kOfAffine) value = affine(line, c, load(x[i])) <= 0 ? acc(0) : of_y;
        if (sign == kOfY) store(kept[i], value);
        return value;
      };
      if (last) {
#pragma omp simd
        for (Index c = 0; c < width; ++c) {
          acc sa = pa[c], sb = pb[c], sw = with_w ? pw[c] : acc(0);
          for (int k = 0; k < count.value; ++k) {
            const Index i = k * width + c;
            const acc value = gradient(i, c);
            sa += value;
            sb += value * (load(x[i]) - line.center[c]);
            if (with_w) sw += value * (load(w[i]) - other[c]);
          }
          pa[c] = sa;
          pb[c] = sb;
          if (with_w) pw[c] = sw;
        }
      } else {
        acc sa = 0, sb = 0, sw = 0;
#pragma omp simd reduction(+ : sa, sb, sw)
        for (Index i = 0; i < width; ++i) {
          const acc value = gradient(i, 0);
          sa += value;
          sb += value * (load(x[i]) - line.center[0]);
          if (with_w) sw += value * (load(w[i]) - other[0]);
        }
        A[n * s.c + channel] = sa;
        B[n * s.c + channel] = sb;
        if (with_w) W[n * s.c + channel] = sw;
      }
    };
    if (last)
      for_each_four(lines, [&](Index r, auto count) { lines_at(first + r, 0, count); });
    else
      for (Index r = first; r < first + lines; ++r) lines_at(r, r, constant<1>{});
  });
  if (!last) return;
#pragma omp parallel for num_threads(s.threads_for(s.n * t.tiles * s.c)) schedule(static)
  for (Index n = 0; n < s.n; ++n) {
    acc* const results[] = {A, B, W};
    for (Index p = 0; p < parts; ++p) {
      acc* __restrict result = results[p] + n * s.c;
      std::fill_n(result, s.c, acc(0));
      for (Index k = 0; k < t.tiles; ++k) {
        const acc* __restrict part = partial.data() + (parts * (n * t.tiles + k) + p) * s.c;
        for (Index c = 0; c < s.c; ++c) result[c] += part[c];
      }
    }
  }
}

// ---- gradients: du from g and u, and dw from g and a shortcut with an affine function --------------------------------

template <class T, bool masked, bool with_w, bool last>
void gradients(const Shape& s, const T* g, const T* u, const Slope<acc_of<T>>& of_u, const Affine<acc_of<T>>& mask,
               const T* shortcut, const Slope<acc_of<T>>& of_w, T* du, T* dw) {
  using acc = acc_of<T>;
  for_each_tile(s, tiling<T>(s), true, [&](Index n, Index first, Index lines) {
    for_each_line(s, n, first, lines, [&](Index channel, Index offset) {
      const Affine<acc> sign = masked ? at(mask, n, channel) : mask;
      const Slope<acc> du_line = at(of_u, n, channel), dw_line = with_w ? at(of_w, n, channel) : of_w;
      const T *__restrict dout = g + offset, *__restrict x = u + offset, *__restrict w = shortcut + offset;
      T *__restrict dx = du + offset, *__restrict dshortcut = dw + offset;
      const Index width = s.width();
#pragma omp simd
      for (Index i = 0; i < width; ++i) {
        const Index c = last ? i : 0;
        const acc of_y = load(dout[i]);  // loaded whether used or not, which vectors need
        const acc value = !masked || !(affine(sign, c, load(x[i])) <= 0) ? of_y : acc(0);
        store(dx[i], slope(du_line, c, value, load(x[i])));
        if (with_w) store(dshortcut[i], slope(dw_line, c, value, load(w[i])));
      }
    });
  });
}

using Value = SENET_TYPE;
using acc = acc_of<Value>;

template <class F>
void with_flag(bool flag, F f) {
  if (flag)
    f(constant<1>{});
  else
    f(constant<0>{});
}
template <class F>
void with_case(int number, F f) {  // 0, 1 or 2
  if (number == 2)
    f(constant<2>{});
  else
    with_flag(number, f);
}

}  // namespace

// What is absent is a null pointer.
extern "C" {

void senet_moments(const Shape* s, const Value* u, acc* mean, acc* q) { moments<Value>(*s, u, mean, q); }

void senet_apply(const Shape* s, bool relu, const Value* u, const Affine<acc>* a, const Value* shortcut,
                 const Affine<acc>* b, Value* y) {
  use_large_pages(y, s->n * s->c * s->m * sizeof(Value));
  with_case(!shortcut ? kNone : !b ? kPlain : kAffine, [&](auto kind) {
    with_flag(relu, [&](auto r) {
      with_flag(s->channels_last, [&](auto last) {
        apply<Value, Shortcut(kind.value), bool(r.value), bool(last.value)>(*s, u, *a, shortcut, b ? *b : *a, y);
      });
    });
  });
}

void senet_sums(const Shape* s, const Value* dy, const Value* u, const acc* center, const Value* y,
                const Affine<acc>* mask, const Value* shortcut, const acc* shortcut_center, acc* A, acc* B, acc* W,
                Value* g) {
  use_large_pages(g, g ? s->n * s->c * s->m * sizeof(Value) : 0);
  const Affine<acc> a = mask ? *mask : Affine<acc>{center, center, center, 0};
  with_case(y ? kOfY : mask ? kOfAffine : kAll, [&](auto sign) {
    with_flag(shortcut, [&](auto with_w) {
      with_flag(s->channels_last, [&](auto last) {
        sums<Value, Sign(sign.value), bool(with_w.value), bool(last.value)>(*s, dy, u, a, y, shortcut,
                                                                            shortcut_center, A, B, W, g);
      });
    });
  });
}

void senet_gradients(const Shape* s, const Value* g, const Value* u, const Slope<acc>* of_u, const Affine<acc>* mask,
                     const Value* shortcut, const Slope<acc>* of_w, Value* du, Value* dw) {
  const Index bytes = s->n * s->c * s->m * sizeof(Value);
  use_large_pages(du, bytes);
  use_large_pages(dw, dw ? bytes : 0);
  with_flag(mask, [&](auto masked) {
    with_flag(shortcut, [&](auto with_w) {
      with_flag(s->channels_last, [&](auto last) {
        gradients<Value, bool(masked.value), bool(with_w.value), bool(last.value)>(
            *s, g, u, *of_u, mask ? *mask : Affine<acc>{}, shortcut, of_w ? *of_w : *of_u, du, dw);
      });
    });
  });
}
}
