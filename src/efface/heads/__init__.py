"""Heads of the auxiliary network: decoder, target head and removal heads, shaped from the features they get."""

from efface.heads.classifier import TRUNKS, Head, build_head
from efface.heads.decoder import FeatureDecoder, ImageDecoder
from efface.heads.layout import as_map, map_shape, pooled

__all__ = ["TRUNKS", "FeatureDecoder", "Head", "ImageDecoder", "as_map", "build_head", "map_shape", "pooled"]
