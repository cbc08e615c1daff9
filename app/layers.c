#include "app/layers.h"

bool layers_open(struct layers *l, const char *model, const char *const *loras, int n, struct error *e) {
    struct model_params mp = {TENSOR_F32, 0};
    *l = (struct layers){0};
    if (model && (l->model = model_open(model, &mp, e))) l->names = adapter_lora_model(l->model);
    if (!model && (l->skeleton = skeleton_for_files(loras, n, e))) l->names = l->skeleton->layers;
    return l->model || l->skeleton;
}

void layers_close(struct layers *l) {
    if (l->model) model_close(&l->model);
    skeleton_destroy(&l->skeleton);
}
