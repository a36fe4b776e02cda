#!/usr/bin/env python3
"""The peer of `swinfleet bench data`: torchvision's ImageFolder, timm's transforms for training
without automatic augmentation, and PyTorch's DataLoader.

Each picture is decoded, a random part of it resampled bicubically to the model's size, flipped by
chance and normalised. The last line is one JSON object. Needs torch, torchvision and timm.
"""
import argparse
import itertools
import json
import os
import time

import timm
import torch
import torchvision
from timm.data import create_transform


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a folder with train/CLASS/PICTURE")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="the loader's processes")
    parser.add_argument("--batches", type=int, default=40, help="that are timed")
    return parser.parse_args()


def main():
    args = parse()
    torch.manual_seed(0)
    transform = create_transform(
        args.image_size, is_training=True, hflip=0.5, color_jitter=None, auto_augment=None,
        interpolation="bicubic",
    )
    dataset = torchvision.datasets.ImageFolder(os.path.join(args.data, "train"), transform)
    # What the processes make ahead, 2 batches each, is neither counted before nor missed at the
    # end; and there is one epoch only, so that they never wait for the next one.
    ahead = 2 * args.threads + 2
    sampler = torch.utils.data.RandomSampler(
        dataset, replacement=True, num_samples=(args.batches + 2 * ahead) * args.batch
    )
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=args.batch, sampler=sampler, num_workers=args.threads
    )
    batches = iter(loader)
    for _ in range(ahead):
        next(batches)
    begin = time.perf_counter()
    for _ in itertools.islice(batches, args.batches):
        pass
    seconds = time.perf_counter() - begin
    pictures = args.batches * args.batch / seconds
    print(json.dumps({
        "peer": f"torch {torch.__version__}, torchvision {torchvision.__version__},"
                f" timm {timm.__version__}",
        "threads": args.threads,
        "batch": args.batch,
        "images_per_s": pictures,
        "images_per_s_core": pictures / args.threads,
    }))


if __name__ == "__main__":
    main()
