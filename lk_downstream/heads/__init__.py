"""Decode heads, built for a backbone's channels: two of our own, and all of mmsegmentation's."""

from lk_downstream.heads.fcn_head import FCNHead
from lk_downstream.heads.mmseg import DecodeHead
from lk_downstream.heads.uper_head import UPerHead

__all__ = ["DecodeHead", "FCNHead", "UPerHead"]
