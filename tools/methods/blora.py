#!/usr/bin/env python3
"""B-LoRA on the demo model: one picture, a mushroom in black ink, and its two parts by themselves.

Trains assets/subjects/ink-mushroom as "A [v]" with assets/recipes/b-lora.json. Draws, from the same seeds, with the style part
alone (--style) and with the content part alone (--content):

    style     20 other things as "A [v] NAME" (--form): measure.style_distance to the picture; the style part should come nearer
    content   20 times the picture's own thing, "A [v], WORD", WORD being a style, a colour or a matter:
              measure.content_distance to the picture (silhouette and edges, no colour); the content part should stay nearer

Three seeds each. Printed: both means, their paired difference over prompts, its standard error; both differences should be
beyond twice that. The base model's distances beside them.

    python3 tools/methods/blora.py --sheet docs/gallery/b-lora.png
"""
import sys

import measure as m

THINGS = ["umbrella", "cat face", "rocket", "guitar", "key", "fish", "house", "owl", "teapot", "bell", "sailboat", "strawberry",
          "cactus", "crown", "airplane", "sunflower", "red apple", "t shirt", "light bulb", "butterfly"]
WORDS = ["flat", "noto", "red", "blue", "green", "purple", "black", "white", "ice", "fire", "water", "snow", "rose", "lemon", "lime",
         "brick", "honey", "rainbow", "sparkles", "bone"]  # all of them known to the model
CONTENT_PROMPTS = [f"A [v], {word}" for word in WORDS]
SEEDS, PICTURE = 3, m.ROOT / "assets" / "subjects" / "ink-mushroom"


def distances(rows, measure, references):
    """One value per prompt, the mean over its seeds: pictures of one prompt are too alike to count as independent."""
    return [sum(measure(m.read(path), references) for path in row) / len(row) for row in rows]


def report(name, drawn, measure, references, nearer, other):
    values = {k: distances(rows, measure, references) for k, rows in drawn.items()}
    for k, v in values.items():
        print("{} distance, {}: {:.4f} +- {:.4f}".format(name, k, *m.mean_error(v)))
    difference, error, far = m.paired(values[other], values[nearer])
    print(f"{name}: the {nearer} part is nearer by {difference:.4f} +- {error:.4f}, {far:.1f} standard errors (goal: 2)")
    return far > 2


def main():
    parser = m.arguments(__doc__, "b-lora")
    parser.add_argument("--form", default="A [v] {}", help="of the prompts with other things")
    parser.add_argument("--strength", type=float, default=1, help="of both parts; another form or strength wants another --work")
    args = parser.parse_args()
    style_prompts = [args.form.format(thing) for thing in THINGS]
    studio = m.Studio(args.work, args.atelier, args.model, args.steps, args.cfg)
    lora = studio.train("b-lora", "--config", m.ROOT / "assets" / "recipes" / "b-lora.json", "--data", PICTURE, "--instance-prompt", "A [v]",
                        "--seed", args.seed)
    models = {"base": [], "style": ["--style", f"{lora}:{args.strength:g}"], "content": ["--content", f"{lora}:{args.strength:g}"]}
    things = {k: studio.draw(f"style-{k}", style_prompts, SEEDS, options=o) for k, o in models.items()}
    own = {k: studio.draw(f"content-{k}", CONTENT_PROMPTS, SEEDS, options=o) for k, o in models.items()}
    picture = m.read_folder(PICTURE)
    good = report("style", things, m.style_distance, m.mean_features([m.style_features(p) for p in picture]), "style", "content")
    good &= report("content", own, m.content_distance, [m.content_features(p) for p in picture], "content", "style")
    if args.sheet:
        rows, down = [[picture[0]]], ["(the picture)"]
        for prompts, drawn, some in ((CONTENT_PROMPTS, own, (0, 1, 2, 9)), (style_prompts, things, (0, 1, 2, 4, 7, 8))):
            rows += [[drawn[k][i][s] for k in models for s in range(2)] for i in some]
            down += [prompts[i] for i in some]
        m.sheet(args.sheet, rows, [f"{k} {s + 1}" for k in models for s in range(2)], down, side=84)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
