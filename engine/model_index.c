/* What kind of model a folder holds, by model_index.json and by its parts: others are named as what they are. */
#include <string.h>

#include "base/os.h"
#include "base/text.h"
#include "engine/model_priv.h"
#include "io/json.h"

/* Pipelines by how their class is called; the first row that fits counts. NULL: runs here. */
static const struct {
    const char *prefix, *name;
} pipelines[] = {
    {"StableDiffusion3", "Stable Diffusion 3"},
    {"StableDiffusionUpscale", "Stable Diffusion's upscaler"},
    {"StableDiffusionLatentUpscale", "Stable Diffusion's latent upscaler"},
    {"StableDiffusionInstructPix2Pix", "an instruct-pix2pix model"},
    {"StableDiffusionXLInstructPix2Pix", "an instruct-pix2pix model"},
    {"StableDiffusionDepth2Img", "a depth model"},
    {"StableDiffusionImageVariation", "an image-variation model"},
    {"StableDiffusionLDM3D", "an LDM3D model"},
    {"StableDiffusionGLIGEN", "a GLIGEN model"},
    {"StableUnCLIP", "Stable unCLIP"},
    {"StableDiffusion", NULL},
    {"LatentConsistencyModel", NULL},
    {"Flux2", "FLUX.2"},
    {"Flux", "Flux"},
    {"StableCascade", "Stable Cascade"},
    {"Wuerstchen", "Wuerstchen"},
    {"Kandinsky3", "Kandinsky 3"},
    {"KandinskyV22", "Kandinsky 2.2"},
    {"Kandinsky5", "Kandinsky 5"},
    {"Kandinsky", "Kandinsky"},
    {"PixArt", "PixArt"},
    {"Sana", "Sana"},
    {"AuraFlow", "AuraFlow"},
    {"HunyuanDiT", "Hunyuan-DiT"},
    {"HunyuanImage", "HunyuanImage"},
    {"HunyuanVideo", "HunyuanVideo"},
    {"Lumina", "Lumina"},
    {"Kolors", "Kolors"},
    {"QwenImage", "Qwen-Image"},
    {"Chroma", "Chroma"},
    {"HiDream", "HiDream"},
    {"CogView", "CogView"},
    {"CogVideo", "CogVideoX"},
    {"Wan", "Wan"},
    {"LTX", "LTX-Video"},
    {"Mochi", "Mochi"},
    {"ZImage", "Z-Image"},
    {"AnimateDiff", "an AnimateDiff model"},
    {"StableVideoDiffusion", "Stable Video Diffusion"},
    {"DeepFloyd", "DeepFloyd IF"},
    {"IF", "DeepFloyd IF"},
    {"UnCLIP", "unCLIP"},
    {"LDMTextToImage", "the first latent diffusion model"},
    {"VersatileDiffusion", "Versatile Diffusion"},
    {"AltDiffusion", "AltDiffusion"},
    {"Amused", "aMUSEd"},
    {"ConsistencyModel", "a consistency model without text"},
    {"DDPM", "a DDPM without text"},
};

static bool refuse(const struct model *m, const char *what, const char *why, struct error *err) {
    return error_set(err, "%s is %s (%s); this program runs Stable Diffusion 1, 2 and SDXL.", TEXT_SHOW(m->path), what,
                     TEXT_SHOW(why));
}

static bool check_class(const struct model *m, const char *kind, struct error *err) {
    size_t i = 0, n = sizeof pipelines / sizeof *pipelines;
    /* Video diffusion starts like the others. */
    if (!strncmp(kind, "StableDiffusion", 15) && strstr(kind, "Video")) return refuse(m, "a video model", kind, err);
    while (i < n && strncmp(kind, pipelines[i].prefix, strlen(pipelines[i].prefix)) != 0) i++;
    if (i < n && !pipelines[i].name) return true;
    return refuse(m, i < n ? pipelines[i].name : "a model of another family", kind, err);
}

/* Without an index the parts tell. */
static bool check_parts(const struct model *m, struct error *err) {
    static const struct {
        const char *folder, *name;
    } parts[] = {{"transformer", "a diffusion transformer such as Flux, PixArt or Stable Diffusion 3"},
                 {"prior", "a two-stage model such as Kandinsky or Stable Cascade"},
                 {"movq", "Kandinsky"}};
    struct arena *a = arena_create(NULL);
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof parts / sizeof *parts; i++)
        if (os_path_is_dir(arena_printf(a, "%s/%s", m->path, parts[i].folder)))
            ok = refuse(m, parts[i].name, arena_printf(a, "it has a part %s", parts[i].folder), err);
    arena_destroy(&a);
    return ok;
}

bool model_index_check(struct model *m, struct error *err) {
    struct arena *a = arena_create(NULL);
    const char *path = arena_printf(a, "%s/model_index.json", m->path);
    bool ok;
    m->zeros_for_empty = true;
    if (os_path_is_file(path)) {
        json_t *o = json_file_load(path, 0, err);
        struct json_reader r = {.file = path, .e = err};
        const char *kind = o ? json_read_string(&r, o, "_class_name", "StableDiffusionPipeline") : NULL;
        m->zeros_for_empty = o && json_read_bool(&r, o, "force_zeros_for_empty_prompt", true);
        ok = kind && !r.failed && check_class(m, kind, err);
        json_decref(o);
    } else ok = check_parts(m, err);
    arena_destroy(&a);
    return ok;
}
