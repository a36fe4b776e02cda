#!/usr/bin/env python3
"""Makes a folder of JPEGs of about ImageNet's sizes: FOLDER/train/CLASS/NNNN.jpg.

Each picture is shapes over a gradient under noise of all scales (its amplitude falls with the
frequency, as that of photographs does), about 500 x 375 pixels and 110 kB. The same numbers give
the same pictures. Needs numpy and Pillow.
"""
import argparse
import os

import numpy
from PIL import Image, ImageDraw

CLASSES = 10
SIZES = [(500, 375), (375, 500), (500, 333), (500, 400)]
QUALITY = 92


def smooth_noise(rng, height, width):
    """Noise with a spectrum of 1 / frequency, of unit deviation, for each of three channels."""
    y = numpy.fft.fftfreq(height)[:, None]
    x = numpy.fft.rfftfreq(width)[None, :]
    amplitude = 1 / numpy.maximum(numpy.hypot(y, x), 1 / max(height, width))
    channels = []
    for _ in range(3):
        white = numpy.fft.rfft2(rng.standard_normal((height, width)))
        channel = numpy.fft.irfft2(white * amplitude, s=(height, width))
        channels.append(channel / channel.std())
    return numpy.stack(channels, axis=-1)


def picture(rng, width, height):
    canvas = Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(40, 216, 3)))
    draw = ImageDraw.Draw(canvas)
    for _ in range(12):
        x, y = (int(v) for v in rng.integers(0, (width, height)))
        w, h = (int(v) for v in rng.integers(20, 200, 2))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.integers(2) else draw.rectangle
        shape((x, y, x + w, y + h), fill=colour)
    noise = smooth_noise(rng, height, width)
    # Photographs vary less in colour than in brightness.
    noise = 26 * noise[..., :1] + 8 * noise
    grain = 5 * rng.standard_normal((height, width, 1))
    pixels = numpy.asarray(canvas, dtype=numpy.float64) + noise + grain
    return Image.fromarray(numpy.clip(pixels, 0, 255).astype(numpy.uint8))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--count", type=int, default=400)
    args = parser.parse_args()
    total = 0
    for index in range(args.count):
        folder = os.path.join(args.folder, "train", f"class_{index % CLASSES}")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{index:04}.jpg")
        width, height = SIZES[index % len(SIZES)]
        rng = numpy.random.default_rng(index)
        picture(rng, width, height).save(path, quality=QUALITY, subsampling="4:2:0")
        total += os.path.getsize(path)
    print(f"{args.count} pictures, {total / args.count / 1000:.0f} kB each")


if __name__ == "__main__":
    main()
