/* Spellings differ at the end of a name (which tensor) and at its start (which module). */
#include "lora/dialect.h"

#include "base/arena.h"
#include "lora/position.h"

#include <stddef.h>
#include <string.h>

enum { MAX_NAME_BYTES = 1024 };

struct ending {
    const char *text, *kind, *slot, *dialect;
};

/* Tensors of kind NULL go with several kinds. Kinds without a row in kinds.def are here so that reports can name them.
 * Rows further down take precedence. */
static const struct ending endings[] = {
    {".alpha", NULL, "alpha", NULL},
    {".diff_b", NULL, "bias", "lycoris"},
    {".b_norm", NULL, "bias", "lycoris"},
    {".lora_B.bias", NULL, "up_bias", "peft"},
    {".lora.alpha", NULL, "alpha", NULL},
    {"_lora.alpha", NULL, "alpha", NULL},
    {".lora_linear_layer.alpha", NULL, "alpha", NULL},
    {".dora_scale", NULL, "magnitude", NULL},
    {".lora_magnitude_vector", NULL, "row_magnitude", "peft"},
    {".lora_magnitude_vector.weight", NULL, "row_magnitude", "peft"},
    {".rescale", NULL, "rescale", "lycoris"},
    {".lora_down.weight", "lora", "down", "kohya"},
    {".lora_up.weight", "lora", "up", "kohya"},
    {".lora_mid.weight", "lora", "mid", "kohya"},
    {".lora_A.weight", "lora", "down", "peft"},
    {".lora_B.weight", "lora", "up", "peft"},
    {".lora.down.weight", "lora", "down", "diffusers"},
    {".lora.up.weight", "lora", "up", "diffusers"},
    {".lora_linear_layer.down.weight", "lora", "down", "diffusers"},
    {".lora_linear_layer.up.weight", "lora", "up", "diffusers"},
    {"_lora.down.weight", "lora", "down", "diffusers processor"},
    {"_lora.up.weight", "lora", "up", "diffusers processor"},
    {":down", "lora", "down", "cloneofsimo"},
    {":up", "lora", "up", "cloneofsimo"},
    {".hada_w1_a", "loha", "w1_a", "lycoris"},
    {".hada_w1_b", "loha", "w1_b", "lycoris"},
    {".hada_w2_a", "loha", "w2_a", "lycoris"},
    {".hada_w2_b", "loha", "w2_b", "lycoris"},
    {".hada_t1", "loha", "t1", "lycoris"},
    {".hada_t2", "loha", "t2", "lycoris"},
    {".lokr_w1", "lokr", "w1", "lycoris"},
    {".lokr_w1_a", "lokr", "w1_a", "lycoris"},
    {".lokr_w1_b", "lokr", "w1_b", "lycoris"},
    {".lokr_w2", "lokr", "w2", "lycoris"},
    {".lokr_w2_a", "lokr", "w2_a", "lycoris"},
    {".lokr_w2_b", "lokr", "w2_b", "lycoris"},
    {".lokr_t2", "lokr", "t2", "lycoris"},
    {".on_input", "ia3", "on_input", "lycoris"},
    {".ia3_l", "ia3_peft", "l", "peft"},
    {".oft_blocks", "oft", "blocks", "lycoris"},
    {".oft_r", "oft_peft", "r", "peft"},
    {".oft_R.weight", "oft_peft", "r", "peft"},
    {".boft_R", "boft_peft", "r", "peft"},
    {".boft_s", "boft_peft", "s", "peft"},
    {".a1.weight", "glora", "a1", "lycoris"},
    {".a2.weight", "glora", "a2", "lycoris"},
    {".b1.weight", "glora", "b1", "lycoris"},
    {".b2.weight", "glora", "b2", "lycoris"},
    {".bm.weight", "glora", "bm", "lycoris"},
    {".diff", "full", "diff", "lycoris"},
    {".w_norm", "norm", "w", "lycoris"},
    {".set_weight", "set", "weight", "comfy"},
};

static bool starts_with(const char *s, const char *prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

/* Removes every occurrence of piece from s, in place. */
static void cut_out(char *s, const char *piece) {
    size_t n = strlen(piece);
    for (char *at; (at = strstr(s, piece));) memmove(at, at + n, strlen(at + n) + 1);
}

/* PEFT may put the adapter's name in between: ".lora_A.default.weight". */
static void drop_adapter_name(char *name) {
    static const char *const marks[] = {".lora_A.", ".lora_B.", ".lora_magnitude_vector."};
    for (size_t i = 0; i < 3; i++) {
        char *at = strstr(name, marks[i]);
        if (!at || !ends_with(at, ".weight")) continue;
        char *rest = at + strlen(marks[i]) - 1, *weight = at + strlen(at) - strlen(".weight");
        memmove(rest, weight, strlen(weight) + 1);
    }
}

/* Attention processors speak of to_q ... to_out where the layers are called to_out.0, or q_proj in a text tower. */
static char *processor_layer(char *module, struct arena *a) {
    static const char *const text[][2] = {
        {".to_q", "q_proj"}, {".to_k", "k_proj"}, {".to_v", "v_proj"}, {".to_out", "out_proj"}};
    if (ends_with(module, ".self_attn.to_q") || strstr(module, ".self_attn.to_"))
        for (size_t i = 0; i < 4; i++)
            if (ends_with(module, text[i][0])) {
                size_t keep = strlen(module) - strlen(text[i][0]);
                return arena_printf(a, "%.*s.%s", (int)keep, module, text[i][1]);
            }
    return ends_with(module, ".to_out") ? arena_printf(a, "%s.0", module) : module;
}

/* Dotted names get their part in front and lose what wrappers added; flat names stay as they are. */
static char *normalize(char *module, struct arena *a) {
    static const char *const known[] = {"lora_", "lycoris_", "unet.", "text_encoder.", "text_encoder_2.",
                                        "diffusion_model.", "text_encoders."};
    static const char wrapper[] = "base_model.model.", twice[] = "unet.unet.", checkpoint[] = "model.diffusion_model.";
    if (starts_with(module, wrapper)) module += sizeof wrapper - 1;
    if (starts_with(module, checkpoint)) module += strlen("model.");
    while (starts_with(module, twice)) module += strlen("unet.");
    cut_out(module, ".processor");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (starts_with(module, known[i])) return module;
    bool text = starts_with(module, "text_model.") ||
                starts_with(module, "encoder.layers."); /* transformers 5 drops the first */
    return arena_printf(a, text ? "text_encoder.%s" : "unet.%s", module);
}

bool lora_key_parse(const char *name, struct lora_key *out, struct arena *a) {
    if (strlen(name) > MAX_NAME_BYTES) return false;
    char *whole = arena_strdup(a, name);
    drop_adapter_name(whole);
    for (size_t i = sizeof endings / sizeof *endings; i-- > 0;) {
        const struct ending *end = &endings[i];
        if (!ends_with(whole, end->text)) continue;
        whole[strlen(whole) - strlen(end->text)] = 0;
        if (end->text[0] == ':') { /* numbers, no names */
            enum lora_part part;
            int index;
            if (!lora_position_parse(whole, &part, &index)) return false;
            *out = (struct lora_key){whole, end->kind, end->slot, end->dialect, (int)i};
            return true;
        }
        if (end->text[0] == '_') whole = processor_layer(whole, a);
        *out = (struct lora_key){normalize(whole, a), end->kind, end->slot, end->dialect, (int)i};
        return true;
    }
    return false;
}

const char *lora_key_ending(const char *kind, const char *slot, bool peft) {
    if (strcmp(kind, "dora") == 0) kind = "lora";
    if (strcmp(kind, "ia3") == 0 && strcmp(slot, "weight") == 0) return ".weight";
    if (strcmp(kind, "norm") == 0 && strcmp(slot, "bias") == 0) return ".b_norm";
    if (strcmp(slot, "row_magnitude") == 0) return peft ? ".lora_magnitude_vector" : ".dora_scale";
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const struct ending *end = &endings[i];
        bool spelled = peft ? end->dialect && strcmp(end->dialect, "peft") == 0
                            : !end->dialect || strcmp(end->dialect, "kohya") == 0 || strcmp(end->dialect, "lycoris") == 0 ||
                                  strcmp(end->dialect, "comfy") == 0;
        if (spelled && (!end->kind || strcmp(end->kind, kind) == 0) && strcmp(end->slot, slot) == 0) return end->text;
    }
    return NULL;
}
