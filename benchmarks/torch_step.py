#!/usr/bin/env python3
"""The peer of `swinfleet bench step` and `bench inference`: a timm model in PyTorch.

A step is forward, cross entropy, backward, clipping of the gradients' norm to 5 and AdamW (fused),
on random pictures; with --inference it is the forward alone, in evaluation mode. bf16 is autocast,
the way PyTorch's users train with it. The last line is one JSON object. `peak_mib` is what the
process grew by from after its imports to its largest size; on a GPU the most of its memory that
tensors took. Needs torch and timm.
"""
import argparse
import json
import time

import timm
import torch


def numbers(text):
    return tuple(int(part) for part in text.split(","))


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="swinv2_tiny_window8_256", help="timm's name")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpointing", choices=["none", "block"], default="none")
    parser.add_argument("--drop-path-rate", type=float, help="of the last block (timm's default)")
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile, what it takes not counted")
    parser.add_argument("--steps", type=int, default=6, help="the first is not counted")
    # Dimensions other than the named model's.
    parser.add_argument("--img-size", type=int)
    parser.add_argument("--in-chans", type=int, default=3)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--patch-size", type=int)
    parser.add_argument("--window", type=int)
    parser.add_argument("--embed-dim", type=int)
    parser.add_argument("--depths", type=numbers)
    parser.add_argument("--heads", type=numbers)
    parser.add_argument("--mlp-ratio", type=float)
    return parser.parse_args()


def resident_peak_mib():
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def make_model(args):
    dimensions = {
        "img_size": args.img_size,
        "patch_size": args.patch_size,
        "window_size": args.window,
        "embed_dim": args.embed_dim,
        "depths": args.depths,
        "num_heads": args.heads,
        "mlp_ratio": args.mlp_ratio,
        "drop_path_rate": args.drop_path_rate,
    }
    given = {name: value for name, value in dimensions.items() if value is not None}
    model = timm.create_model(
        args.model, pretrained=False, in_chans=args.in_chans, num_classes=args.classes, **given
    )
    if args.checkpointing == "block":
        model.set_grad_checkpointing(True)
    size = args.img_size or model.pretrained_cfg["input_size"][-1]
    return model, (args.batch, args.in_chans, size, size)


def timed(work, count, device):
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds[1:] if count > 1 else seconds)


def training(args, model, shape):
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05, fused=True)
    pictures = torch.randn(shape, device=args.device)
    labels = torch.randint(0, args.classes, (args.batch,), device=args.device)

    def step():
        with torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = torch.nn.functional.cross_entropy(model(pictures), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def inference(args, model, shape):
    model.eval()
    pictures = torch.randn(shape, device=args.device)

    def run():
        with torch.inference_mode(), torch.autocast(
            args.device, torch.bfloat16, enabled=args.dtype == "bf16"
        ):
            model(pictures)

    return run


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    imported = resident_peak_mib()
    model, shape = make_model(args)
    model.to(args.device)
    if args.compile:
        model = torch.compile(model)
    work = (inference if args.inference else training)(args, model, shape)
    seconds = timed(work, args.steps, args.device)
    if args.device == "cuda":
        peak_mib = torch.cuda.max_memory_allocated() / (1 << 20)
    else:
        peak_mib = resident_peak_mib() - imported
    what = "run" if args.inference else "step"
    print(json.dumps({
        "peer": f"torch {torch.__version__}, timm {timm.__version__}",
        "model": args.model,
        "batch": args.batch,
        "dtype": args.dtype,
        "checkpointing": args.checkpointing,
        "threads": args.threads,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        f"{what}_s": seconds[0],
        f"{what}_s_median": seconds[len(seconds) // 2],
        "images_per_s": args.batch / seconds[0],
        "peak_mib": peak_mib,
    }))


if __name__ == "__main__":
    main()
