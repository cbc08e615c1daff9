/* A model with LoRAs and learnt words on a device, as the options ask for them. */
#include <string.h>

#include "app/generate.h"
#include "base/log.h"
#include "engine/adapter.h"

bool generate_open(struct generate_open *s, const struct common *c, struct generate_options *o, const struct generate_plan *p,
                   const char *recipe_hash, struct error *e) {
    if (!(s->engine = common_engine_for(c, o->model, o->dry_run, e))) return false;
    const struct model *m = s->engine->model;
    if (!generate_model_hash(m, s->hash, e)) return false;
    s->facts = (struct generate_facts){.model_name = m->name, .model_hash = s->hash};
    if (recipe_hash && strncmp(s->hash, recipe_hash, strlen(recipe_hash)) != 0)
        log_warn("%s was made with another model (hash %s): expect another picture", o->from, recipe_hash);
    const struct lora_use *l = &p->loras;
    if (l->n && !(s->adapter = adapter_open_blocks(s->engine, l->paths, lora_use_blocks(l), l->n, e))) return false;
    s->facts.adapter = s->adapter;
    return prompt_use_load(&o->prompt_use, m, s->adapter ? s->adapter->files : NULL, l->n, p->arena, e);
}

bool generate_close(struct generate_open *s, bool ok, struct error *e) {
    adapter_close(&s->adapter);
    return common_close(&s->engine, ok, e);
}
