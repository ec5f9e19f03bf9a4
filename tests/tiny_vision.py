"""The vision models' own classes at a tiny size with random weights, in the folders of the checkpoint tree."""

import json
import string
from pathlib import Path

import numpy as np
import torch

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255}
STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, **IMAGENET}

DEPTH_PICTURES = {
    **STEPS,
    "size": {"height": 518, "width": 518},
    "ensure_multiple_of": 14,
    "keep_aspect_ratio": True,
    "resample": 3,
}
GROUNDING_PICTURES = {**STEPS, "size": {"shortest_edge": 800, "longest_edge": 1333}, "resample": 2}
SAM2_PICTURES = {**STEPS, "size": {"height": 1024, "width": 1024}, "resample": 2}
"""What the published preprocessor_config.json files say."""


def write_pictures(folder: Path, told: dict, **changes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps({**told, **changes}))


def write_depth_anything(folder: Path) -> None:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=4, initializer_range=0.3,
    )  # fmt: skip
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    write_pictures(folder, DEPTH_PICTURES, size={"height": 56, "width": 56})


def write_grounding_dino(folder: Path) -> None:
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    backbone = SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    words = write_bert_tokenizer(folder)
    text = BertConfig(
        vocab_size=words, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=260,
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, num_queries=4, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    write_pictures(folder, GROUNDING_PICTURES, size={"shortest_edge": 224, "longest_edge": 400})


def write_bert_tokenizer(folder: Path) -> int:
    """Letters as words; the special tokens have the numbers of BERT's own vocabulary, which the model relies on."""
    from transformers import BertTokenizerFast

    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    words = [f"[unused{number}]" for number in range(1030)]
    for number, word in special.items():
        words[number] = word
    words += letters
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    return len(words)


def write_sam2(folder: Path) -> None:
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
    from transformers.models.sam2_video.configuration_sam2_video import (
        Sam2VideoMaskDecoderConfig,
        Sam2VideoPromptEncoderConfig,
    )

    side = 64
    hiera = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[side, side], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 2, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    config = Sam2VideoConfig(
        vision_config=vision, image_size=side,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(image_size=side),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(mlp_dim=32, iou_head_hidden_dim=16, num_hidden_layers=1),
        memory_attention_num_layers=1, memory_attention_feed_forward_hidden_size=16,
        memory_attention_rope_feat_sizes=[4, 4], memory_fuser_num_layers=1, memory_fuser_intermediate_dim=16,
        num_maskmem=3, max_object_pointers_in_encoder=3,
    )  # fmt: skip
    Sam2VideoModel(config).save_pretrained(folder)
    write_pictures(folder, SAM2_PICTURES)


def write_video_features(folder: Path) -> None:
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(
        crop_size=32, hidden_size=24, num_attention_heads=2, num_hidden_layers=2, mlp_ratio=2,
        pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip
    VJEPA2Model(config).save_pretrained(folder)


def write_vision_tree(root: Path) -> None:
    """Depth Anything, Grounding DINO and SAM 2 where the checkpoint tree has them."""
    torch.manual_seed(0)
    write_depth_anything(root / "depth-anything" / "Depth-Anything-V2-Small-hf")
    write_grounding_dino(root / "IDEA-Research" / "grounding-dino-tiny")
    write_sam2(root / "facebook" / "sam2-hiera-large")


def write_dot_models(folder: Path) -> tuple[Path, Path]:
    """A person detector and a keypoint estimator as ONNX files, with the signatures of the published ones.

    The detector's one box holds what is red; the estimator puts all 133 points on what is greenest.
    Both are real graphs, so channels, scaling and padding have to be right for the points to fall into place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _write_detector(folder / "yolox.onnx"), write_estimator(folder / "rtmpose.onnx")


def _write_detector(file: Path, side: int = 64) -> Path:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Gather", ["image", "red"], ["plane"], axis=1),  # [1, side, side]; BGR, so red is 2
        helper.make_node("Greater", ["plane", "bright"], ["is_red"]),
        helper.make_node("Cast", ["is_red"], ["mask"], to=TensorProto.FLOAT),
    ]
    for name in "xy":
        nodes += [
            helper.make_node("ReduceMax", ["mask", f"axis_{name}"], [f"line_{name}"], keepdims=0),  # [1, side]
            helper.make_node("ArgMax", [f"line_{name}"], [f"first_{name}"], axis=1, keepdims=1),
            helper.make_node("ArgMax", [f"line_{name}"], [f"last_{name}"], axis=1, keepdims=1, select_last_index=1),
            helper.make_node("Add", [f"last_{name}", "one"], [f"end_{name}"]),
        ]
    sides = ["first_x", "first_y", "end_x", "end_y"]
    nodes += [
        helper.make_node("Concat", sides, ["corners"], axis=1),
        helper.make_node("Cast", ["corners"], ["corners_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["mask", "axes_all"], ["score"], keepdims=0),
        helper.make_node("Reshape", ["score", "shape_score"], ["score_2d"]),
        helper.make_node("Concat", ["corners_float", "score_2d"], ["det"], axis=1),
        helper.make_node("Reshape", ["det", "shape_dets"], ["dets"]),
        helper.make_node("Reshape", ["first_x", "shape_labels"], ["labels"]),
    ]
    constants = {
        "red": np.array(2), "bright": np.array(200, np.float32), "one": np.array(1), "axis_x": np.array([1]),
        "axis_y": np.array([2]), "axes_all": np.array([1, 2]), "shape_score": np.array([1, 1]),
        "shape_dets": np.array([1, 1, 5]), "shape_labels": np.array([1, 1]),
    }  # fmt: skip
    outputs = [("dets", TensorProto.FLOAT, [1, 1, 5]), ("labels", TensorProto.INT64, [1, 1])]
    return _save(file, nodes, constants, ("image", [1, 3, side, side]), outputs)


def write_estimator(file: Path, rows: int = 96, columns: int = 72, channel: int = 1) -> Path:
    """An estimator that puts all points where the picture has most of one channel, green unless told otherwise."""
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Gather", ["image", "channel"], ["plane"], axis=1)]  # [N, rows, columns]
    for name in "xy":
        nodes += [
            helper.make_node("ReduceMax", ["plane", f"axis_{name}"], [f"line_{name}"], keepdims=0),  # [N, length]
            helper.make_node("Unsqueeze", [f"line_{name}", "last"], [f"column_{name}"]),
            helper.make_node("Concat", [f"column_{name}", f"column_{name}"], [f"twice_{name}"], axis=2),
            helper.make_node("Reshape", [f"twice_{name}", f"shape_{name}"], [f"fine_{name}"]),  # [N, 1, 2 length]
            helper.make_node("Tile", [f"fine_{name}", "points"], [f"simcc_{name}"]),
        ]
    constants = {
        "channel": np.array(channel), "last": np.array([2]), "points": np.array([1, 133, 1]),
        "axis_x": np.array([1]), "axis_y": np.array([2]),
        "shape_x": np.array([-1, 1, 2 * columns]), "shape_y": np.array([-1, 1, 2 * rows]),
    }  # fmt: skip
    outputs = [
        ("simcc_x", TensorProto.FLOAT, ["batch", 133, 2 * columns]),
        ("simcc_y", TensorProto.FLOAT, ["batch", 133, 2 * rows]),
    ]
    return _save(file, nodes, constants, ("image", ["batch", 3, rows, columns]), outputs)


def _save(file: Path, nodes: list, constants: dict, image: tuple, outputs: list) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        file.stem,
        [helper.make_tensor_value_info(image[0], TensorProto.FLOAT, image[1])],
        [helper.make_tensor_value_info(*output) for output in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return file
