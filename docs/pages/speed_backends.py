"""The sections of docs/speed.md about the backends of inference on the CPU, and the scale inside of the convolution."""

from pages.measured import Result, median, ratios, spread, table

BACKENDS_HEAD = """
## Backends on the CPU

`senet.optimize_for_inference` by backend, in milliseconds; `prepared` is how many seconds the first call took. `auto`
is what backend="auto" chose, which takes the time of all but inductor and up to two seconds of measuring, once. Choices
between backends that differ by less than the noise of a machine vary.
"""
DETECTOR_HEAD = """
Trunk and pyramid of a Faster R-CNN on SE-ResNet-50, with the seconds of the first image of a size:
"""
FUSED_HEAD = """
## Scale inside the convolution

Where the 6 to 10 percent are that SE costs for one image, and which of a CPU's runtimes can compute scale, sum and ReLU
inside of the expanding convolution. Rewritten networks in float32; the first lines of the script say what each form is.
"""
FUSED_FOUND = """
- PyTorch's own oneDNN operators take one operand: a product with (N, C, 1, 1), or the sum and ReLU of weights that the
  gate has scaled. Inductor's single pass over the map is faster than either, for it computes all three.
- oneDNN Graph, which TorchScript reaches (`torch.jit.enable_onednn_fusion`), computes all of it in one convolution
  (`attr-post-ops:binary_mul+sum+eltwise_relu` in its log). That is backend="onednn": as fast as OpenVINO, without its
  package, and compiled in a second.
- Weights scaled by the gate are one more pass over the weights, of which the last stages have more than values in the
  map, and no runtime then keeps them in the order that it computes in. OpenVINO fuses no sum with a computed bias.
- oneDNN's log, below in milliseconds, shows what is left: convolutions with the scale inside take as long as without.
  Squeeze and excitation are three small steps for each of 16 blocks, and what is not in the log is the way from one
  step to the next, which 80 more of them take. The steps in the log alone come to 1.03, so no fusion of the tail gets a
  network below that, and no form but the first is used.
"""
FORMS = ("as rewritten", "product inside", "weights scaled", "weights scaled, small")


def backends_section(result: Result) -> str:
    """Return the tables of backends by network, and by size of a detector's images."""
    names = ("as it is", "eager", "inductor", "onednn", "openvino")
    rows = []
    for one in result["cases"]:
        images = f"{one['batch']} image{'' if one['batch'] == 1 else 's'}"
        title = f"{one['network']}, {images} of {one['side']}, {one['precision']}"
        prepared = " / ".join(str(one["prepare_s"][name]) for name in (*names[2:], "auto"))
        rows.append((title, *(median(one["milliseconds"], name) for name in names), one["auto"], prepared))
    headings = ("", *names, "auto", "prepared: inductor / onednn / openvino / auto")
    text = BACKENDS_HEAD + table(headings, rows)
    if result["detector"]:
        names = tuple(result["detector"][0]["milliseconds"])
        rows = [
            (
                f"{one['height']} x {one['width']}",
                *(f"{median(one['milliseconds'], name)} ({one['first_s'][name]} s)" for name in names),
            )
            for one in result["detector"]
        ]
        text += DETECTOR_HEAD + table(("pixels, in this order", *names), rows)
    return text


def fused_section(result: Result) -> str:
    """Return the table of the forms of a block's tail, by runtime."""
    times, rows = result["milliseconds"], []
    for runtime in dict.fromkeys(name.split(", ")[1] for name in times):
        plain = f"plain, {runtime}, as rewritten"
        rows.append((f"{runtime}, ResNet-50", median(times, plain), "1.00", f"{result['differences'][plain]:.0e}"))
        for form in FORMS:
            name = f"SE, {runtime}, {form}"
            if name in times:
                differs = f"{result['differences'][name]:.0e}"
                row = (median(times, name), spread(ratios(times, name, plain)), differs)
                rows.append((f"{runtime}, SE-ResNet-50, {form}", *row))
    text = FUSED_HEAD + table(("", "ms", "SE / plain", "differs"), rows) + FUSED_FOUND
    parts = result["parts"]
    of_parts = [
        (name, *(median(parts[kind], part) for part in parts[kind]), median(times, f"{kind}, oneDNN, as rewritten"))
        for kind, name in (("plain", "ResNet-50"), ("SE", "SE-ResNet-50"))
    ]
    return text + table(("", *parts["SE"], "the whole network, without the log"), of_parts)
