"""What the other camera would see: warp a view by depth and poses, and say which pixels to believe."""

from guided_transfer.warp.guide import WristGuide, guide_for_wrist
from guided_transfer.warp.view import WarpedView, warp_view
from guided_transfer.warp.zones import Zone, guidance_masks, stack_views, unstack_views, zone_shares

__all__ = [
    "WarpedView",
    "WristGuide",
    "Zone",
    "guidance_masks",
    "guide_for_wrist",
    "stack_views",
    "unstack_views",
    "warp_view",
    "zone_shares",
]
