"""Exporting a network to a file that works without this library, whole or not at all."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from senet.deployment import detectors
from senet.deployment.calibration import CalibrationSource, images_for_int8
from senet.deployment.config import ExportConfig
from senet.deployment.detection_parity import PHOTOS, DetectionParity, compare_detectors, photos_of_run
from senet.deployment.digests import digests_below, parity_path
from senet.deployment.exported_detectors import ExportedDetector
from senet.deployment.graph import ExportGraph, bare_network, build_graph
from senet.deployment.layouts import place_of_model, write_settings
from senet.deployment.loading import ExportedModel
from senet.deployment.metadata import describe
from senet.deployment.onnxruntime_web import check_runtime
from senet.deployment.parity import ParityReport, write_parity
from senet.deployment.photos import PhotoSource
from senet.deployment.pictures import usual_number
from senet.deployment.proving import NumImages, check_proof, check_report, number_of, prove, write_proof
from senet.deployment.sensitivity import Sensitivity
from senet.deployment.targets import TARGETS, Metadata, TargetInfo, check_target
from senet.deployment.writing import remove_unfinished, written_whole
from senet.detection.opening import detects, open_detector
from senet.errors import SenetError, warn
from senet.evaluation.batches import DataSource, open_model, run_data
from senet.evaluation.functions import Network, class_names_of, name_of
from senet.files import at_home, check_writable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export has written.

    Args:
        path: the file, or the folder.
        model: what `senet.load_exported` opens: in a model repository the file within it, else `path`.
        files: all that was written.
        metadata: what the file says of itself.
        parity: how it differs from the network; None for a format that cannot be computed here.
        sensitivity: what its layers cost in int8; None for other precisions.
    """

    path: Path
    model: Path
    files: tuple[Path, ...]
    metadata: Metadata
    parity: ParityReport | DetectionParity | None
    sensitivity: Sensitivity | None = None


def export(
    run_or_model: Network,
    output: str | Path,
    config: ExportConfig | None = None,
    *,
    data: DataSource | PhotoSource | None = None,
    num_images: NumImages = None,
    calibration: CalibrationSource | None = None,
    report: str | Path | None = None,
    **options: Any,
) -> Exported:
    """Export a network that classifies, or a detector, to a file for other runtimes, and compare both.

    Nothing is left of an export that fails, and nothing that exists is replaced. How both compare is written beside the
    file, as network.onnx.parity.json for network.onnx.

    Args:
        run_or_model: a network; or what `senet.from_pretrained` opens: a run or model folder, a name, a hub id.
        output: the new file; its suffix is that of the format, such as .onnx.
        config: of the export; None for the defaults.
        data: images on which original and exported network are compared, for a detector with boxes or without; None for
            those that the run is evaluated on, and for generated ones where there is no run.
        num_images: how many of them, at equal distances, or "all"; None for 500 at most, 200 of 224 pixels, and 50 for
            a detector.
        calibration: data, a folder or images, uint8 (N, C, H, W), for the ranges of `precision="int8"`; None for the
            training images of the run.
        report: write the comparison as a page.
        **options: fields of `ExportConfig`, which replace those of `config`.

    Returns:
        What was written. The file is kept if it differs from the network beyond the tolerance:
        `parity.within_tolerance` says so.

    Raises:
        SenetError: an output that exists, an option without effect, or a network that the format cannot express.
        MissingExtraError: the format needs a package that is not installed.

    >>> import senet
    >>> exported = senet.export("cifar_se_resnet20", "network.onnx", preprocess=True)  # doctest: +SKIP
    """
    config = with_options(config or ExportConfig(), options)
    output, info = at_home(output), check_target(config)
    check_output(output, config, info)
    if config.to == "web":
        check_runtime(config.onnxruntime_web)
    page = None if report is None else at_home(report)
    if detects(run_or_model):
        if calibration is not None:
            raise SenetError("calibration has no effect on a detector, which is exported in fp32; leave it out")
        return export_detector(run_or_model, output, config, data, num_images, page)
    return export_classifier(run_or_model, output, config, data, num_images, calibration, page)


def export_classifier(
    run_or_model: Network,
    output: Path,
    config: ExportConfig,
    data: Any,
    num_images: NumImages,
    calibration: CalibrationSource | None,
    page: Path | None,
) -> Exported:
    """Export a network that classifies, see `export`.

    Args:
        run_or_model: see `export`.
        output: the new file.
        config: of the export.
        data: see `export`.
        num_images: likewise.
        calibration: likewise.
        page: for the report; None for none.

    Raises:
        SenetError: as `export`.
    """
    model, info = bare_network(open_model(run_or_model)), TARGETS[config.to]
    if isinstance(model, ExportedModel):
        raise SenetError(f"{model.name} is an exported file already; give the network that it was made of")
    check_proof(model, config.to, info, data, page)
    graph = build_graph(model, config)
    number = number_of(num_images, usual_number(graph.preprocessing.image_size))
    metadata = metadata_of(graph, config, run_or_model)
    size = config.image_size
    if size is not None and size[0] != size[1] and not {"height", "width"} & {*config.free_axes}:
        warn(
            f"images of {size[0]} x {size[1]} pixels are no squares, as senet.predict and senet.evaluate cut them: "
            "neither can use the file, and it is compared on generated pictures"
        )
    calibrating = images_for_int8(run_or_model, config, graph, calibration, class_names_of(model))
    logger.info("writing %s", output)
    parity = None
    with written_whole(output) as folder:
        place = place_in(folder / output.name, graph, config, metadata)
        sensitivity = info.load().write(graph, place, config, metadata, calibrating)
        if not info.elsewhere:
            parity = prove(model, run_or_model, place, output, data, number)
            write_parity(parity, parity_path(folder / output.name), digests_below(folder))
        found = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    if parity is None:
        warn(f"{output} was not compared with the network: {info.elsewhere}")
    elif page is not None:
        write_proof(parity, page)
    model_file, *files = (output.parent / file for file in (place.relative_to(folder), *found))
    return Exported(
        path=output,
        model=model_file,
        files=tuple(files),
        metadata=metadata,
        parity=parity,
        sensitivity=sensitivity,
    )


def metadata_of(graph: ExportGraph, config: ExportConfig, run_or_model: Network) -> Metadata:
    """Return what the file of a network that classifies says of itself."""
    model = graph.original
    return describe(
        graph,
        config,
        source=name_of(run_or_model),
        name=getattr(getattr(model, "config", None), "name", type(model).__name__),
        class_names=class_names_of(model) or None,
        data=run_data(run_or_model) if isinstance(run_or_model, str | Path) else None,
    )


def place_in(output: Path, graph: ExportGraph, config: ExportConfig, metadata: Metadata) -> Path:
    """Return where the network's file goes: the output, or in a model repository, whose settings are written, within.

    Args:
        output: where it is written at first.
        graph: what is exported.
        config: of the export.
        metadata: of the file.
    """
    if config.layout is None:
        return output
    place = place_of_model(output, metadata, TARGETS[config.to].suffix)
    write_settings(config.layout, output, config, metadata, graph.num_outputs())
    return place


def with_options(config: ExportConfig, options: Mapping[str, Any]) -> ExportConfig:
    """Return a configuration with other values.

    Raises:
        SenetError: a name of none of its fields, or a value that is out of range or has no effect.
    """
    known = [field.name for field in fields(ExportConfig)]
    for name in options:
        if name not in known:
            raise SenetError(f"senet.export has no option {name!r}; its options are {', '.join(known)}")
    return replace(config, **options)


def export_detector(
    run_or_model: Network, output: Path, config: ExportConfig, data: Any, num_images: NumImages, page: Path | None
) -> Exported:
    """Export a detector, see `export`.

    Args:
        run_or_model: see `export`.
        output: the new file.
        config: of the export.
        data: see `export`.
        num_images: see `export`.
        page: for the report; None for none.

    Raises:
        SenetError: as `export`.
    """
    detectors.check_options(config)
    check_report(page)
    original = open_detector(run_or_model, "cpu").eval()
    detector = detectors.for_inference(original, config)
    metadata = detectors.describe(detector, config, run_or_model)
    photos = photos_of_run(original, run_or_model, data, number_of(num_images, PHOTOS))
    logger.info("writing %s", output)
    with written_whole(output) as folder:
        place = folder / output.name
        detectors.write(detector, place, config, metadata)
        exported = ExportedDetector(place, *TARGETS[config.to].load().open_file(place))
        logger.info("comparing %s with %s", output, name_of(run_or_model))
        parity = compare_detectors(original, exported, photos, names=(name_of(run_or_model), str(output)))
        write_parity(parity, parity_path(place), digests_below(folder))
        files = tuple(output.parent / file.name for file in sorted(folder.iterdir()))
    if page is not None:
        write_proof(parity, page)
    return Exported(path=output, model=output, files=files, metadata=metadata, parity=parity)


def check_output(output: Path, config: ExportConfig, info: TargetInfo) -> None:
    """Raise a SenetError for an output that has another suffix than the format, exists or cannot be written."""
    if config.layout is not None and output.suffix:
        raise SenetError(
            f"{output} ends in {output.suffix}, but layout={config.layout!r} writes a folder; name it without"
        )
    if config.layout is None and info.suffix and output.suffix != info.suffix:
        others = [name for name, other in TARGETS.items() if other.suffix and other.suffix == output.suffix.lower()]
        remedy = f", or choose to={others[0]!r}" if others else ""
        raise SenetError(f"{output} does not end in {info.suffix}, as files of {config.to} do; name it so{remedy}")
    companions = [] if config.layout is not None else [*map(output.with_suffix, info.companions)]
    companions.append(parity_path(output))
    if not os.path.lexists(output):  # which is False for a name that is too long too
        check_writable(output)
    remove_unfinished(output, companions)
    for path in (output, *companions):
        if os.path.lexists(path):
            raise SenetError(f"{path} exists already; name another output, or remove it")
