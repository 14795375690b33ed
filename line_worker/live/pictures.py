"""Pixels to what a browser can show. OpenCV is imported on first use: a sink starts without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN, SMALL = 1920, 320  # pixels of the longer side
JPEG_QUALITY = 85


def to_jpeg(pixels: NDArray[Any], longest: int = SHOWN) -> bytes:
    """Return `pixels`, (H, W) or (H, W, 3) BGR, uint8 or uint16, as JPEG whose longer side is at most `longest`."""
    import cv2

    done, data = cv2.imencode(".jpg", _eight_bits(smaller(pixels, longest)), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, f"{pixels.shape} {pixels.dtype}"
    return data.tobytes()


def smaller(pixels: NDArray[Any], longest: int) -> NDArray[Any]:
    """Return `pixels` scaled down until the longer side is at most `longest`; the same dtype."""
    import cv2

    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    found: NDArray[Any] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return found


def _eight_bits(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return uint8; of 16 bits as many are dropped as the picture needs (cameras give 10 or 12 of them)."""
    import numpy as np

    if pixels.dtype == np.uint8:
        return pixels
    shift = max(0, int(pixels.max()).bit_length() - 8)
    return (pixels >> shift).astype(np.uint8)
