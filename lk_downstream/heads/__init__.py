"""Decode heads: mmsegmentation's, built for a backbone's channels."""

from lk_downstream.heads.mmseg import DecodeHead, FCNHead, UPerHead

__all__ = ["DecodeHead", "FCNHead", "UPerHead"]
