"""Draw the model card's sheets: 40 trained prompts, and 8 that the model never saw."""
import argparse
import random

import torch

from common import picture_sheet, trained_names
from sample import Sampler

FIXED = ["pizza", "red apple", "cat face", "rocket", "house", "guitar", "umbrella", "cactus", "penguin", "tulip"]
UNSEEN = ["purple apple, flat", "purple apple, noto", "green cat face, flat", "green cat face, noto",
          "blue rocket, flat", "red penguin, noto", "golden guitar, flat", "a cactus in a teapot, flat"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="pipeline folder")
    parser.add_argument("--unet", help="folder with unet/ and text_encoder/ to use instead")
    parser.add_argument("--out", required=True, help="PNG of 8 columns and 5 rows")
    parser.add_argument("--unseen", help="PNG of 8 columns and 1 row")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    others = [n for n in trained_names() if n not in FIXED]
    names = FIXED + random.Random(args.seed).sample(others, 10)
    prompts = [f"{name}, {word}" for name in names for word in ("flat", "noto")]
    sampler = Sampler(args.model, args.unet)
    picture_sheet(sampler.draw(prompts, args.seed, args.steps, args.cfg), 8).save(args.out, optimize=True)
    if args.unseen:
        pictures = sampler.draw(UNSEEN, args.seed, args.steps, args.cfg)
        picture_sheet(pictures, 8).save(args.unseen, optimize=True)
    print("\n".join(prompts))


if __name__ == "__main__":
    main()
