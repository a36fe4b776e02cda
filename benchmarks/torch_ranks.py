#!/usr/bin/env python3
"""The peer of `swinfleet bench ranks`: a timm model over several processes on the CPU, with PyTorch's
DistributedDataParallel or its fully_shard (FSDP2) over Gloo. Runs under torch.distributed.run.

A step is forward, cross entropy, backward, clipping of the gradients' norm to 5 and AdamW (fused),
on random pictures. The last line, of rank 0, is one JSON object; `peak_mib` is what its process grew
by from after its imports to its largest size. Needs torch and timm.
"""
import argparse
import json

import timm
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import torch_step


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=["ddp", "fsdp"], required=True)
    parser.add_argument("--model", default="swinv2_tiny_window8_256", help="timm's name")
    parser.add_argument("--batch", type=int, default=4, help="of each rank")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6, help="the first is not counted")
    return parser.parse_args()


def over_ranks(mode, model):
    """The model, and what its users call."""
    if mode == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for stage in model.layers:
        for block in stage.blocks:
            fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def main():
    args = parse()
    args.dtype, args.device = "fp32", "cpu"
    torch.set_num_threads(args.threads)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    imported = torch_step.resident_peak_mib()
    model = timm.create_model(args.model, pretrained=False, num_classes=args.classes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = model.pretrained_cfg["input_size"][-1]
    step = torch_step.training(args, over_ranks(args.mode, model), (args.batch, 3, size, size))
    seconds = torch_step.timed(step, args.steps, args.device)
    if dist.get_rank() == 0:
        print(json.dumps({
            "peer": f"torch {torch.__version__}, timm {timm.__version__}",
            "mode": args.mode,
            "ranks": dist.get_world_size(),
            "model": args.model,
            "batch": args.batch,
            "threads": args.threads,
            "parameters": parameters,
            "step_s": seconds[0],
            "step_s_median": seconds[len(seconds) // 2],
            "images_per_s": args.batch * dist.get_world_size() / seconds[0],
            "peak_mib": torch_step.resident_peak_mib() - imported,
        }))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
