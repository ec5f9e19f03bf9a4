"""Small random networks of the real classes, as folders like those that are downloaded."""

from pathlib import Path

import torch
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Sam2Config,
    Sam2Model,
    VJEPA2Config,
    VJEPA2Model,
)


def tiny_depth_anything(folder: Path) -> Path:
    torch.manual_seed(0)
    backbone = {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 70,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "reshape_hidden_states": False,
        "apply_layernorm": True,
    }
    sizes = {"reassemble_hidden_size": 16, "neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}
    config = DepthAnythingConfig(backbone_config=backbone, patch_size=14, head_hidden_size=8, **sizes)
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    return folder


def tiny_sam2(folder: Path) -> Path:
    torch.manual_seed(0)
    side = 64
    hiera = {
        "model_type": "sam2_hiera_det_model",
        "image_size": [side, side],
        "hidden_size": 8,
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    vision = {
        "backbone_config": hiera,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    }
    prompts = {"hidden_size": 32, "image_size": side, "patch_size": 16}
    decoder = {"hidden_size": 32, "num_attention_heads": 2, "mlp_dim": 32, "iou_head_hidden_dim": 16}
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    Sam2Model(config).save_pretrained(folder)
    return folder


def tiny_video_features(folder: Path) -> Path:
    torch.manual_seed(0)
    predictor = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    config = VJEPA2Config(
        crop_size=32, hidden_size=24, num_attention_heads=2, num_hidden_layers=2, mlp_ratio=2, **predictor
    )
    VJEPA2Model(config).save_pretrained(folder)
    return folder
