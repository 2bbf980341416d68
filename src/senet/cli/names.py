"""Options of other programs: what does the same here."""

from collections.abc import Mapping
from types import MappingProxyType

Names = Mapping[str, str]
"""Options elsewhere, such as "--imgsz" -> the options here."""

FINETUNING: Names = MappingProxyType(
    {
        "--aa": "--data.augmentation.auto-augment",
        "--amp": "--compute.precision",
        "--batch": "--batch-size",
        "--data-dir": "the folder, which comes first",
        "--data": "the folder, which comes first",
        "--device": "--compute.cpu, or CUDA_VISIBLE_DEVICES before the command",
        "--drop": "--model-kwargs dropout=0.2, or drop_rate=0.2 for a network of timm",
        "--dropout": "--model-kwargs dropout=0.2, or drop_rate=0.2 for a network of timm",
        "--erasing": "--data.augmentation.random-erasing",
        "--fp16": "--compute.precision fp16",
        "--half": "--compute.precision fp16",
        "--img-size": "--image-size",
        "--imgsz": "--image-size",
        "--input-size": "--image-size",
        "--learning-rate": "--optimizer.lr",
        "--lr0": "--optimizer.lr",
        "--model-ema": "--regularization.ema-decay",
        "--name": "--output",
        "--num-classes": "nothing: the classes are those of the data",
        "--num-train-epochs": "--epochs",
        "--opt": "--optimizer.name",
        "--optimizer": "--optimizer.name",
        "--output-dir": "--output",
        "--patience": "--selection.patience",
        "--per-device-train-batch-size": "--batch-size",
        "--project": "--output",
        "--reprob": "--data.augmentation.random-erasing",
        "--smoothing": "--regularization.label-smoothing",
        "--sched": "--schedule.name",
        "--schedule": "--schedule.name",
        "--scheduler": "--schedule.name",
        "--sync-bn": "--compute.sync-batch-norm",
        "--train-dir": "the folder, which comes first",
        "--val-split": "--data.val-fraction",
        "--valid-pct": "--data.val-fraction",
        "--workers": "--data.num-workers",
    }
)
"""Of timm's train.py, Ultralytics, fastai and Hugging Face's trainer."""

TRAINING: Names = MappingProxyType(
    {
        **FINETUNING,
        **dict.fromkeys(("--data-dir", "--data-path", "--dataset", "--train-dir"), "--data"),
        "--image-size": "--data.preprocessing.image-size",
        "--img-size": "--data.preprocessing.image-size",
        "--imgsz": "--data.preprocessing.image-size",
        "--initial-checkpoint": "--weights",
        "--input-size": "--data.preprocessing.image-size",
        "--model": "--model.name",
        "--pretrained": "--weights, or `senet finetune` for pictures of your own",
    }
)
"""The same for training by a recipe, where the data are an option."""

SIZES = "--model.min-size and --model.max-size"
DETECTING: Names = MappingProxyType(
    {
        "--amp": "--compute.precision",
        "--aspect-ratio-group-factor": "--data.group-by-shape",
        "--backbone": "--model.trunk",
        "--base-lr": "--optimizer.lr",
        "--batch": "--batch-size",
        "--cache": "--data.in-memory",
        "--cfg": "the recipe, which comes first",
        "--conf": "--model.options box_score_thresh=0.05",
        "--config-file": "the recipe, which comes first",
        "--cos-lr": "--schedule.name cosine",
        "--data-path": "--data",
        "--dataset": "--data",
        "--device": "--compute.cpu, or CUDA_VISIBLE_DEVICES before the command",
        "--fliplr": "--data.augmentation.flip",
        "--freeze": "--model.frozen-stages",
        "--freeze-at": "--model.frozen-stages",
        "--half": "--compute.precision",
        "--image-size": SIZES,
        "--img": SIZES,
        "--img-size": SIZES,
        "--ims-per-batch": "--batch-size",
        "--imgsz": SIZES,
        "--iou": "--model.options box_nms_thresh=0.5",
        "--learning-rate": "--optimizer.lr",
        "--lr-gamma": "--schedule.factor",
        "--lr-steps": "--schedule.milestones",
        "--lr0": "--optimizer.lr",
        "--max-iter": "--iterations",
        "--model": "--model.trunk, with --weights for what it starts from",
        "--multi-scale": "several lengths after --model.min-size",
        "--name": "--output",
        "--num-gpus": "torchrun --nproc-per-node before `-m senet train`",
        "--opt": "--optimizer.name",
        "--optimizer": "--optimizer.name",
        "--output-dir": "--output",
        "--pretrained": "--weights",
        "--project": "--output",
        "--steps": "--schedule.milestones",
        "--trainable-backbone-layers": "--model.frozen-stages, of which 2 are 3 trainable layers",
        "--work-dir": "--output",
        "--workers": "--data.num-workers",
    }
)
"""Of torchvision's references/detection, Ultralytics, Detectron2 and mmdetection, for training."""

PREDICTING: Names = MappingProxyType(
    {
        "--batch": "--batch-size",
        "--checkpoint": "--model",
        "--conf": "--threshold",
        "--conf-thres": "--threshold",
        "--confidence-threshold": "--threshold",
        "--half": "--precision fp16",
        "--image-size": "--crop-size, and for a detector --model.min-size of `senet train`",
        "--img-size": "--crop-size, and for a detector --model.min-size of `senet train`",
        "--imgsz": "--crop-size, and for a detector --model.min-size of `senet train`",
        "--input": "the images, which are named without an option",
        "--iou": "--model.options box_nms_thresh=0.5 of `senet train`",
        "--name": "--output",
        "--out-dir": "--output",
        "--output-dir": "--output",
        "--project": "--output",
        "--save": "--output FOLDER",
        "--save-csv": "--output FILE.csv",
        "--save-json": "--output FILE.json",
        "--save-txt": "--output FILE.csv or FILE.json",
        "--score-thr": "--threshold",
        "--source": "the images, which are named without an option",
        "--topk": "--top",
        "--weights": "--model",
        "--workers": "--num-workers",
    }
)
"""Of Ultralytics, Detectron2's demo, mmdetection and timm's inference.py."""

EVALUATING: Names = MappingProxyType(
    {
        "--batch": "--batch-size",
        "--checkpoint": "the network, which comes first",
        "--conf": "--threshold",
        "--half": "--precision fp16",
        "--image-size": "--model.min-size of `senet train`",
        "--img-size": "--model.min-size of `senet train`",
        "--imgsz": "--model.min-size of `senet train`",
        "--iou": "--model.options box_nms_thresh=0.5 of `senet train`",
        "--model": "the network, which comes first",
        "--output-dir": "--detections FILE and --report FILE",
        "--plots": "--report FILE",
        "--save-json": "--detections FILE",
        "--split": "--data.val",
        "--weights": "the network, which comes first",
        "--workers": "--data.num-workers",
    }
)
"""Of Ultralytics, Detectron2 and mmdetection, for the evaluation of a detector."""

CLASSIFYING: Names = MappingProxyType(
    {
        "--amp": "--precision fp16",
        "--batch": "--batch-size",
        "--checkpoint": "the network, which comes first",
        "--data-dir": "--data.root",
        "--dataset": "--data",
        "--device": "nothing: a GPU computes if there is one, and an exported file computes on the CPU; "
        "CUDA_VISIBLE_DEVICES= before the command hides GPUs",
        "--half": "--precision fp16",
        "--image-size": "--crop-size",
        "--img-size": "--crop-size",
        "--imgsz": "--crop-size",
        "--model": "the network, which comes first",
        "--output": "--json, or --report FILE",
        "--results-file": "--json, or --report FILE",
        "--split": "--data, of which the part for evaluation is taken",
        "--workers": "--data.num-workers",
    }
)
"""Of timm's validate.py, torchvision's references and Ultralytics, for the evaluation of a network that classifies."""

LISTING: Names = MappingProxyType(
    {
        "--filter": "the pattern, which comes without an option",
        "--module": "a pattern such as 'se_*'",
        "--pretrained": "--weights",
    }
)
"""Of timm.list_models."""

RANGES = "--dynamic batch height width, of any length"
EXPORTING: Names = MappingProxyType(
    {
        "--batch": "--batch-size",
        "--best": "--int8 or --fp16",
        "--calib": "--calibrate",
        "--checkpoint": "the network, which comes first",
        "--device": "nothing: files are written on the CPU, and compute wherever their runtime does",
        "--do-constant-folding": "nothing: constants are folded always",
        "--dtype": "--precision",
        "--dynamic-axes": "--dynamic batch height width",
        "--dynamic-shapes": "--dynamic batch height width",
        "--dynamic-size": "--dynamic batch height width",
        "--format": "--to",
        "--framework": "--to",
        "--half": "--fp16",
        "--img": "--image-size HEIGHT WIDTH",
        "--img-size": "--image-size HEIGHT WIDTH",
        "--imgsz": "--image-size HEIGHT WIDTH",
        "--include": "--to",
        "--input-names": "nothing: the input is called images, and in a detector's file image",
        "--input-size": "--image-size HEIGHT WIDTH",
        "--keep-classifier": "nothing: the whole network is exported",
        "--maxShapes": RANGES,
        "--mean": "nothing: the network's own is taken, and --preprocess puts it inside the file",
        "--memPoolSize": "nothing: how much memory a runtime may take is said where the file runs",
        "--minShapes": RANGES,
        "--model": "the network, which comes first",
        "--name": "the output, which comes second",
        "--num-classes": "nothing: the network's own is taken",
        "--onnx": "--to onnx",
        "--opset-version": "--opset",
        "--optShapes": RANGES,
        "--optimize": "--rewrite, which is the default",
        "--output": "the output, which comes second",
        "--output-names": "nothing: the output is called logits, and those of a detector boxes, labels and scores",
        "--quantize": "--int8",
        "--saveEngine": "nothing: the output comes second, and trtexec makes an engine of a .onnx file",
        "--shapes": "--batch-size and --image-size HEIGHT WIDTH, after --dynamic for nothing that is free",
        "--simplify": "nothing: the graph is simple already",
        "--std": "nothing: the network's own is taken, and --preprocess puts it inside the file",
        "--validate": "nothing: every export ends with the comparison",
        "--verify": "nothing: every export ends with the comparison",
        "--weight-format": "--precision",
        "--weights": "the network, which comes first",
        "--workspace": "nothing: how much memory a runtime may take is said where the file runs",
    }
)
"""Of timm's onnx_export.py, torch.onnx, Ultralytics, optimum-cli and trtexec, for exports."""

BY_ONNX = "export to onnx, which {} reads".format
TENSORRT = (
    "export to onnx; on the machine with the GPU, trtexec --onnx=FILE.onnx --saveEngine=FILE.engine makes an engine"
)
TENSORFLOW = "on phones take executorch or coreml, and elsewhere onnx"
EXPORTED_AS: Mapping[str, Names] = MappingProxyType(
    {
        "--to": MappingProxyType(
            {
                **dict.fromkeys(("tensorrt", "trt", "engine"), TENSORRT),
                **dict.fromkeys(
                    ("tflite", "litert", "edgetpu", "tensorflow", "saved_model", "pb", "keras"), TENSORFLOW
                ),
                **dict.fromkeys(("tfjs", "js", "onnxruntime-web", "html"), "take web, a page for any static host"),
                **dict.fromkeys(
                    ("torchscript", "jit", "pt", "pth"),
                    "take torch_export, whose .pt2 PyTorch opens without this library, or for weights `senet convert`",
                ),
                **dict.fromkeys(("pt2", "aoti", "exported_program"), "take torch_export"),
                **dict.fromkeys(("pte", "xnnpack"), "take executorch"),
                **dict.fromkeys(("mlmodel", "mlpackage", "ios", "apple"), "take coreml"),
                **dict.fromkeys(("ir", "xml", "vino"), "take openvino"),
                **dict.fromkeys(("onnxruntime", "ort"), "take onnx"),
                "ncnn": BY_ONNX("its converter pnnx"),
                "mnn": BY_ONNX("its converter"),
                "rknn": BY_ONNX("its toolkit"),
                "paddle": BY_ONNX("its converter x2paddle"),
                **dict.fromkeys(("triton", "ovms"), "take --layout, with --to onnx or openvino"),
            }
        ),
        "--precision": MappingProxyType(
            {
                **dict.fromkeys(("half", "float16", "16"), "take fp16"),
                **dict.fromkeys(("float32", "float", "full", "32", "tf32"), "take fp32"),
                **dict.fromkeys(("uint8", "8", "fp8", "int4", "quantized"), "take int8, or int8_weights"),
                **dict.fromkeys(
                    ("bf16", "bfloat16"),
                    "take fp32: where a processor has bfloat16, runtimes can compute in it (OpenVINO does by itself)",
                ),
            }
        ),
        "--dynamic": MappingProxyType(
            {
                **dict.fromkeys(("n", "0", "batch_size", "batch-size"), "take batch"),
                **dict.fromkeys(("true", "1", "yes", "all"), "name the axes: batch height width, or nothing for none"),
            }
        ),
    }
)
"""Values of other programs for options of `senet export`: the remedy."""
