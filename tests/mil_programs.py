"""Core ML's programs computed by PyTorch, operator by operator, for systems without Core ML.

It knows the operators that exported networks have, in the meaning that their documentation states. Source:
https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html.
"""

import numpy as np
import torch
import torch.nn.functional as F


def tensor(value):
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def sides(values):
    """Return MIL's padding (top, bottom, left, right) as F.pad takes it."""
    top, bottom, left, right = map(int, values)
    return [left, right, top, bottom]


def conv(x, weight, strides, pad, dilations, groups, bias=None, **_):
    return F.conv2d(F.pad(x, sides(pad)), weight, bias, tuple(strides), 0, tuple(dilations), groups)


def max_pool(x, kernel_sizes, strides, pad, ceil_mode, **_):
    return F.max_pool2d(
        F.pad(x, sides(pad), value=-torch.inf), tuple(kernel_sizes), tuple(strides), ceil_mode=bool(ceil_mode)
    )


def avg_pool(x, kernel_sizes, strides, pad, exclude_padding_from_average, ceil_mode, **_):
    kernel, strides = tuple(kernel_sizes), tuple(strides)
    sums = F.avg_pool2d(F.pad(x, sides(pad)), kernel, strides, ceil_mode=bool(ceil_mode))
    if not exclude_padding_from_average:
        return sums
    return sums / F.avg_pool2d(F.pad(torch.ones_like(x), sides(pad)), kernel, strides, ceil_mode=bool(ceil_mode))


def slice_by_index(x, begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None, **_):
    index = []
    for axis, (low, high) in enumerate(zip(begin, end, strict=True)):
        low = 0 if begin_mask is not None and begin_mask[axis] else int(low)
        high = x.shape[axis] if end_mask is not None and end_mask[axis] else int(high)
        index.append(slice(low, high, 1 if stride is None else int(stride[axis])))
    assert squeeze_mask is None or not any(squeeze_mask)
    return x[tuple(index)]


def pad(x, pad, constant_val, **_):
    before_and_after = [pair for axis in reversed(range(len(pad) // 2)) for pair in pad[2 * axis : 2 * axis + 2]]
    return F.pad(x, list(map(int, before_and_after)), value=float(constant_val))


def batch_norm(x, mean, variance, gamma, beta, epsilon, **_):
    return F.batch_norm(x, mean, variance, gamma, beta, eps=float(epsilon))


def dequantized(quantized_data, zero_point, scale, axis):
    shape = [-1 if each == axis else 1 for each in range(quantized_data.dim())]
    scale, zero = (torch.as_tensor(each).reshape(-1).float() for each in (scale, zero_point))
    return (quantized_data.float() - zero.view(shape if len(zero) > 1 else [1])) * scale.view(
        shape if len(scale) > 1 else [1]
    )


OPERATORS = {
    "conv": conv,
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "batch_norm": batch_norm,
    "relu": lambda x: x.relu(),
    "sigmoid": lambda x: x.sigmoid(),
    "softmax": lambda x, axis: x.softmax(int(axis)),
    "add": lambda x, y: x + y,
    "mul": lambda x, y: x * y,
    "sub": lambda x, y: x - y,
    "real_div": lambda x, y: x / y,
    "reduce_mean": lambda x, axes, keep_dims: x.mean(tuple(map(int, axes)), keepdim=bool(keep_dims)),
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "concat": lambda values, axis, **_: torch.cat(values, int(axis)),
    "slice_by_index": slice_by_index,
    "pad": pad,
    "reshape": lambda x, shape: x.reshape(tuple(map(int, shape))),
    "transpose": lambda x, perm: x.permute(tuple(map(int, perm))),
    "constexpr_affine_dequantize": dequantized,
}


@torch.no_grad()
def computed(model, x):
    """Return the outputs of a coremltools model by name, for one input; of a classifier its probabilities in order."""
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = model.get_spec()
    function = load(
        spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir
    ).functions["main"]
    (name,) = function.inputs
    values = {name: x}

    def value_of(given):
        if isinstance(given, list | tuple):
            return [value_of(each) for each in given]
        return values[given.name] if given.name in values else tensor(given.val)

    for operator in function.operations:
        inputs = {key: value_of(given) for key, given in operator.inputs.items() if given is not None}
        if operator.op_type == "classify":
            label, probabilities = operator.outputs
            values[label.name] = inputs["classes"]
            values[probabilities.name] = inputs["probabilities"]
        elif operator.op_type != "const":
            values[operator.outputs[0].name] = OPERATORS[operator.op_type](**inputs)
    return {output.name: values[output.name] for output in function.outputs}
