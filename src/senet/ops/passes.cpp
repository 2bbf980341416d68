// The steps of the residual tail, for the CPU. `passes.py` says what each computes; `cpu.py` compiles this file, once
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

// Calls f(first line, constant of how many) for the lines of a tile: four at a time where they are so long that sums over
// lines leave the first-level cache, for each sum is then read and written once in four.
template <int v>
struct constant {
  static constexpr int value = v;
};
template <class F>
inline void for_each_four(const Shape& s, Index lines, F f) {
  Index r = 0;
  if (s.width() >= 1024)
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
    for_each_four(s, rows, sum_tile);
    bool far = false;
    for (Index c = 0; q && c < s.c; ++c) {
      const acc of_mean = center[c] * center[c] / acc(rows);
      far |= of_mean > 16 * (square[c] - of_mean);  // more than four deviations
    }
    if (far) {
      for (Index c = 0; c < s.c; ++c) origin[c] += center[c] / acc(rows);
      std::fill_n(center, s.c, acc(0));
      std::fill_n(square, s.c, acc(0));
      for_each_four(s, rows, sum_tile);
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

// ---- what the other passes know of a channel -------------------------------------------------------------------------

// (x - center) * scale + shift, with scale and shift of an image and channel or, with `stride` 0, of a channel.
template <class acc>
struct Affine {
  const acc *center, *scale, *shift;
  Index stride;
};

// A gradient: g * P + (x - center) * Q + R, with P and R of an image and channel or, with `stride` 0, of a channel.
template <class acc>
struct Slope {
  const acc *P, *Q, *R;
  Index stride;
};

enum Shortcut { kNone, kPlain, kAffine };  // what is added to the branch: nothing, a map, an affine function of one

// Three vectors at one image and channel.
template <class acc>
struct Line {
  const acc *first, *second, *third;
};
template <class acc>
inline Line<acc> at(const Affine<acc>& a, Index n, Index c) {
  return {a.center + c, a.scale + n * a.stride + c, a.shift + n * a.stride + c};
}
template <class acc>
inline Line<acc> at(const Slope<acc>& s, Index n, Index c) {
  return {s.P + n * s.stride + c, s.Q + c, s.R + n * s.stride + c};
}
template <class acc>
inline acc affine(const Line<acc>& a, Index c, acc x) {
  return (x - a.first[c]) * a.second[c] + a.third[c];
}
template <class acc>
inline acc slope(const Line<acc>& s, Index c, acc g, acc centered) {
  return g * s.first[c] + centered * s.second[c] + s.third[c];
}

// Calls f(image, first channel, offset of the first value) for every line of a tile.
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
      const Line<acc> line = at(a, n, channel), other = at(kind == kAffine ? b : a, n, channel);
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

// ---- sums: A[n, c] = sum g, B[n, c] = sum g (u - center), W[n, c] = sum g (w - center) over positions ----------------
// where g is dy where y is positive. Beside a shortcut g is kept: it is the shortcut's gradient, or on the way to it.

template <class T, Shortcut kind, bool relu, bool last>
void sums(const Shape& s, const T* dy, const T* y, const T* u, const Affine<acc_of<T>>& a, const T* shortcut,
          const Affine<acc_of<T>>& b, acc_of<T>* A, acc_of<T>* B, acc_of<T>* W, T* g) {
  using acc = acc_of<T>;
  const Tiling t = tiling<T>(s);
  constexpr Index parts = kind == kAffine ? 3 : 2;
  std::vector<acc> partial(last ? parts * s.n * t.tiles * s.c : 0);
  for_each_tile(s, t, false, [&](Index n, Index first, Index lines) {
    acc* __restrict pa = partial.data() + parts * (n * t.tiles + first / t.rows) * s.c;
    acc *__restrict pb = pa + s.c, *__restrict pw = pb + s.c;
    const auto lines_at = [&](Index row, Index channel, auto count) {
      const Line<acc> line = at(a, n, channel), other = at(kind == kAffine ? b : a, n, channel);
      const Index offset = (n * s.lines() + row) * s.width(), width = s.width();
      const T *__restrict dout = dy + offset, *__restrict out = y + offset;
      const T *__restrict x = u + offset, *__restrict w = shortcut + offset;
      T* __restrict kept = g + offset;
      const auto gradient = [&](Index i, Index c) {
        const acc of_y = load(dout[i]);
        const acc value = !relu || (kind == kNone ? affine(line, c, load(x[i])) : load(out[i])) > 0 ? of_y : acc(0);
        if (kind != kNone) store(kept[i], value);
        return value;
      };
      if (last) {
#pragma omp simd
        for (Index c = 0; c < width; ++c) {
          acc sa = pa[c], sb = pb[c], sw = kind == kAffine ? pw[c] : acc(0);
          for (int k = 0; k < count.value; ++k) {
            const Index i = k * width + c;
            const acc value = gradient(i, c);
            sa += value;
            sb += value * (load(x[i]) - line.first[c]);
            if (kind == kAffine) sw += value * (load(w[i]) - other.first[c]);
          }
          pa[c] = sa;
          pb[c] = sb;
          if (kind == kAffine) pw[c] = sw;
        }
      } else {
        acc sa = 0, sb = 0, sw = 0;
#pragma omp simd reduction(+ : sa, sb, sw)
        for (Index i = 0; i < width; ++i) {
          const acc value = gradient(i, 0);
          sa += value;
          sb += value * (load(x[i]) - line.first[0]);
          if (kind == kAffine) sw += value * (load(w[i]) - other.first[0]);
        }
        A[n * s.c + channel] = sa;
        B[n * s.c + channel] = sb;
        if (kind == kAffine) W[n * s.c + channel] = sw;
      }
    };
    if (last)
      for_each_four(s, lines, [&](Index r, auto count) { lines_at(first + r, 0, count); });
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

// ---- gradients: du from g, and the shortcut's gradient in the place of g where it is not g itself --------------------

template <class T, Shortcut kind, bool relu, bool last>
void gradients(const Shape& s, T* g, const T* u, const Affine<acc_of<T>>& a, const Slope<acc_of<T>>& du_of,
               const T* shortcut, const Affine<acc_of<T>>& b, const Slope<acc_of<T>>& dw_of, T* du) {
  using acc = acc_of<T>;
  for_each_tile(s, tiling<T>(s), true, [&](Index n, Index first, Index lines) {
    for_each_line(s, n, first, lines, [&](Index channel, Index offset) {
      const Line<acc> line = at(a, n, channel), other = at(kind == kAffine ? b : a, n, channel);
      const Line<acc> du_line = at(du_of, n, channel), dw_line = at(kind == kAffine ? dw_of : du_of, n, channel);
      const T *__restrict x = u + offset, *__restrict w = shortcut + offset;
      T *__restrict dout = g + offset, *__restrict dx = du + offset;
      const Index width = s.width();
#pragma omp simd
      for (Index i = 0; i < width; ++i) {
        const Index c = last ? i : 0;
        const acc of_y = load(dout[i]);  // loaded whether used or not, which vectors need
        const acc value = !relu || kind != kNone || affine(line, c, load(x[i])) > 0 ? of_y : acc(0);
        store(dx[i], slope(du_line, c, value, load(x[i]) - line.first[c]));
        if (kind == kAffine) store(dout[i], slope(dw_line, c, value, load(w[i]) - other.first[c]));
      }
    });
  });
}

// ---- between the passes: the excitation ------------------------------------------------------------------------------
// Its matrix products are small and thin, N rows: a library's take longer to start than these take.

enum Gate { kSigmoid, kTanh, kRelu, kHardSigmoid, kSigmoidX2, kHardSigmoidX2 };  // `number` in gates.py

template <class acc>
inline acc gate_of(int gate, acc x) {
  if (gate == kSigmoid) return 1 / (1 + std::exp(-x));
  if (gate == kTanh) return std::tanh(x);
  if (gate == kRelu) return x < 0 ? acc(0) : x;  // a NaN stays
  if (gate == kSigmoidX2) return 2 / (1 + std::exp(-x));
  const acc hard = x <= -3 ? acc(0) : x >= 3 ? acc(1) : x / 6 + acc(0.5);
  return gate == kHardSigmoidX2 ? 2 * hard : hard;
}

// The slope of a gate from its value.
template <class acc>
inline acc gate_slope(int gate, acc value) {
  if (gate == kSigmoid) return value * (1 - value);
  if (gate == kTanh) return 1 - value * value;
  if (gate == kRelu) return value > 0 ? acc(1) : acc(0);
  if (gate == kSigmoidX2) return value * (1 - value / 2);
  if (gate == kHardSigmoidX2) return value > 0 && value < 2 ? acc(1) / 3 : acc(0);
  return value > 0 && value < 1 ? acc(1) / 6 : acc(0);
}

constexpr Index kBlock = 32;  // channels whose matrix elements are worked on together: (N, C) rows lie far apart

// sums[n * stride] = the sum over i of x[n, i] * weight[i].
template <class acc>
inline void products(Index count, Index inner, const acc* x, const acc* __restrict weight, acc* sums, Index stride) {
  Index n = 0;
  for (; n + 4 <= count; n += 4) {  // four at a time, for the weights are then read once in four
    const acc *__restrict x0 = x + n * inner, *__restrict x1 = x0 + inner, *__restrict x2 = x1 + inner;
    const acc* __restrict x3 = x2 + inner;
    acc sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
    for (Index i = 0; i < inner; ++i) {
      sum0 += x0[i] * weight[i];
      sum1 += x1[i] * weight[i];
      sum2 += x2[i] * weight[i];
      sum3 += x3[i] * weight[i];
    }
    sums[n * stride] = sum0;
    sums[(n + 1) * stride] = sum1;
    sums[(n + 2) * stride] = sum2;
    sums[(n + 3) * stride] = sum3;
  }
  for (; n < count; ++n) {
    const acc* __restrict row = x + n * inner;
    acc sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index i = 0; i < inner; ++i) sum += row[i] * weight[i];
    sums[n * stride] = sum;
  }
}

// sum[i] = the sum over r of x[r * stride] * rows[r, i].
template <class acc>
inline void weighted_sum(Index count, Index width, const acc* x, Index stride, const acc* rows, acc* __restrict sum) {
  std::fill_n(sum, width, acc(0));
  Index r = 0;
  for (; r + 4 <= count; r += 4) {  // four at a time, for each sum is then read and written once in four
    const acc *__restrict r0 = rows + r * width, *__restrict r1 = r0 + width, *__restrict r2 = r1 + width;
    const acc* __restrict r3 = r2 + width;
    const acc x0 = x[r * stride], x1 = x[(r + 1) * stride], x2 = x[(r + 2) * stride], x3 = x[(r + 3) * stride];
#pragma omp simd
    for (Index i = 0; i < width; ++i) sum[i] += (x0 * r0[i] + x1 * r1[i]) + (x2 * r2[i] + x3 * r3[i]);
  }
  for (; r < count; ++r) {
    const acc* __restrict row = rows + r * width;
    const acc value = x[r * stride];
#pragma omp simd
    for (Index i = 0; i < width; ++i) sum[i] += value * row[i];
  }
}

// z[n, c], the mean after the affine function, from m[n, c], the mean before it.
template <class acc>
std::vector<acc> squeezed(const Shape& s, const acc* m, const Affine<acc>& a) {
  std::vector<acc> z(s.n * s.c);
  for (Index n = 0; n < s.n; ++n)
#pragma omp simd
    for (Index c = 0; c < s.c; ++c) z[n * s.c + c] = (m[n * s.c + c] - a.center[c]) * a.scale[c] + a.shift[c];
  return z;
}

template <class acc>
void excite(const Shape& s, Index hidden_units, int gate, const acc* m, const Affine<acc>& a, const acc* fc1,
            const acc* bias1, const acc* fc2, const acc* bias2, acc* hidden, acc* value, acc* scale, acc* shift) {
  const std::vector<acc> z = squeezed(s, m, a);
#pragma omp parallel num_threads(s.threads_for(s.n * s.c * hidden_units))
  {
#pragma omp for schedule(static)
    for (Index k = 0; k < hidden_units; ++k) {
      products(s.n, s.c, z.data(), fc1 + k * s.c, hidden + k, hidden_units);
      for (Index i = k; i < s.n * hidden_units; i += hidden_units) {
        const acc x = hidden[i] + (bias1 ? bias1[k] : acc(0));
        hidden[i] = x < 0 ? acc(0) : x;  // a NaN stays
      }
    }
    std::vector<acc> logits(s.n * kBlock);
#pragma omp for schedule(static)
    for (Index first = 0; first < s.c; first += kBlock) {
      const Index width = std::min(kBlock, s.c - first);
      for (Index c = 0; c < width; ++c)
        products(s.n, hidden_units, hidden, fc2 + (first + c) * hidden_units, logits.data() + c, kBlock);
      for (Index n = 0; n < s.n; ++n)
        for (Index c = first; c < first + width; ++c) {
          const Index i = n * s.c + c;
          value[i] = gate_of(gate, logits[n * kBlock + c - first] + (bias2 ? bias2[c] : acc(0)));
          scale[i] = value[i] * a.scale[c];
          shift[i] = value[i] * a.shift[c];
        }
    }
  }
}

template <class acc>
void excite_gradients(const Shape& s, Index hidden_units, int gate, const acc* A, const acc* B, const acc* m,
                      const Affine<acc>& a, const acc* fc1, const acc* fc2, const acc* hidden, const acc* value,
                      acc* dfc1, acc* dfc2, acc* dbias1, acc* dbias2, acc* dz, acc* dscale,
                      acc* dshift) {
  const std::vector<acc> z = squeezed(s, m, a);
  std::vector<acc> dlogits(s.n * s.c), dhiddens(s.n * hidden_units);
  acc *__restrict dlogit = dlogits.data(), *__restrict dhidden = dhiddens.data();
#pragma omp parallel num_threads(s.threads_for(s.n * s.c * hidden_units))
  {
#pragma omp for schedule(static)
    for (Index n = 0; n < s.n; ++n) {
      for (Index c = 0; c < s.c; ++c) {
        const Index i = n * s.c + c;
        dlogit[i] = (a.scale[c] * B[i] + a.shift[c] * A[i]) * gate_slope(gate, value[i]);
      }
      acc* __restrict row = dhidden + n * hidden_units;
      weighted_sum(s.c, hidden_units, dlogit + n * s.c, 1, fc2, row);
      for (Index k = 0; k < hidden_units; ++k) row[k] = hidden[n * hidden_units + k] > 0 ? row[k] : acc(0);
      weighted_sum(hidden_units, s.c, row, 1, fc1, dz + n * s.c);
    }
#pragma omp for schedule(static) nowait
    for (Index k = 0; k < hidden_units; ++k) {
      weighted_sum(s.n, s.c, dhidden + k, hidden_units, z.data(), dfc1 + k * s.c);
      dbias1[k] = 0;
      for (Index n = 0; n < s.n; ++n) dbias1[k] += dhidden[n * hidden_units + k];
    }
#pragma omp for schedule(static)
    for (Index first = 0; first < s.c; first += kBlock) {
      const Index end = std::min(first + kBlock, s.c);
      for (Index c = first; c < end; ++c) {
        weighted_sum(s.n, hidden_units, dlogit + c, s.c, hidden, dfc2 + c * hidden_units);
        dbias2[c] = dscale[c] = dshift[c] = 0;
      }
      for (Index n = 0; n < s.n; ++n)
        for (Index c = first; c < end; ++c) {
          const Index i = n * s.c + c;
          dbias2[c] += dlogit[i];
          dscale[c] += value[i] * B[i] + dz[i] * (m[i] - a.center[c]);
          dshift[c] += value[i] * A[i] + dz[i];
        }
    }
  }
}

using Value = SENET_TYPE;
using acc = acc_of<Value>;

template <class F>
void with_flag(int flag, F f) {
  if (flag)
    f(constant<1>{});
  else
    f(constant<0>{});
}
template <class F>
void with_case(const Shape& s, int kind, int relu, F f) {
  with_flag(relu, [&](auto r) {
    with_flag(s.channels_last, [&](auto last) {
      if (kind == kNone) f(constant<kNone>{}, r, last);
      if (kind == kPlain) f(constant<kPlain>{}, r, last);
      if (kind == kAffine) f(constant<kAffine>{}, r, last);
    });
  });
}

}  // namespace

extern "C" {

void senet_moments(const Shape* s, const Value* u, acc* mean, acc* q) { moments<Value>(*s, u, mean, q); }

void senet_statistics(const Shape* s, const acc* m, const acc* q, acc* mean, acc* var, acc* unbiased) {
  const acc share = acc(1) / acc(s->n), correction = acc(s->n * s->m) / acc(s->n * s->m - 1);
  std::fill_n(mean, s->c, acc(0));
  std::fill_n(var, s->c, acc(0));
  for (Index n = 0; n < s->n; ++n)
    for (Index c = 0; c < s->c; ++c) mean[c] += m[n * s->c + c] * share;
  for (Index n = 0; n < s->n; ++n)
    for (Index c = 0; c < s->c; ++c) {
      const acc d = m[n * s->c + c] - mean[c];
      var[c] += (q[n * s->c + c] + d * d) * share;
    }
  for (Index c = 0; c < s->c; ++c) unbiased[c] = var[c] * correction;
}

void senet_apply(const Shape* s, int kind, int relu, const Value* u, const Affine<acc>* a, const Value* shortcut,
                 const Affine<acc>* b, Value* y) {
  use_large_pages(y, s->n * s->c * s->m * sizeof(Value));
  with_case(*s, kind, relu, [&](auto k, auto r, auto last) {
    apply<Value, Shortcut(k.value), bool(r.value), bool(last.value)>(*s, u, *a, shortcut, *b, y);
  });
}

void senet_sums(const Shape* s, int kind, int relu, const Value* dy, const Value* y, const Value* u,
                const Affine<acc>* a, const Value* shortcut, const Affine<acc>* b, acc* A, acc* B, acc* W, Value* g) {
  use_large_pages(g, g ? s->n * s->c * s->m * sizeof(Value) : 0);
  with_case(*s, kind, relu, [&](auto k, auto r, auto last) {
    sums<Value, Shortcut(k.value), bool(r.value), bool(last.value)>(*s, dy, y, u, *a, shortcut, *b, A, B, W, g);
  });
}

void senet_excite(const Shape* s, int hidden_units, int gate, const acc* m, const Affine<acc>* a, const acc* fc1,
                  const acc* bias1, const acc* fc2, const acc* bias2, acc* hidden, acc* value, acc* scale, acc* shift) {
  excite(*s, hidden_units, gate, m, *a, fc1, bias1, fc2, bias2, hidden, value, scale, shift);
}

void senet_excite_gradients(const Shape* s, int hidden_units, int gate, const acc* A, const acc* B, const acc* m,
                            const Affine<acc>* a, const acc* fc1, const acc* fc2, const acc* hidden, const acc* value,
                            acc* dfc1, acc* dfc2, acc* dbias1, acc* dbias2, acc* dz, acc* dscale,
                            acc* dshift) {
  excite_gradients(*s, hidden_units, gate, A, B, m, *a, fc1, fc2, hidden, value, dfc1, dfc2, dbias1, dbias2, dz,
                   dscale, dshift);
}

void senet_gradients(const Shape* s, int kind, int relu, Value* g, const Value* u, const Affine<acc>* a,
                     const Slope<acc>* du_of, const Value* shortcut, const Affine<acc>* b, const Slope<acc>* dw_of,
                     Value* du) {
  use_large_pages(du, s->n * s->c * s->m * sizeof(Value));
  with_case(*s, kind, relu, [&](auto k, auto r, auto last) {
    gradients<Value, Shortcut(k.value), bool(r.value), bool(last.value)>(*s, g, u, *a, *du_of, shortcut, *b, *dw_of, du);
  });
}
}
