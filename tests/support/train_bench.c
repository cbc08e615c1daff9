#include "tests/support/train_bench.h"
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"

#include <math.h>
#include <string.h>

static struct train_params params_of(const struct train_bench *b, const char *targets, int remat) {
    struct error e = {{0}};
    struct train_params p = train_params_default();
    p.rank = (int)golden_number(b->golden, "rank"), p.alpha = (float)golden_number(b->golden, "alpha");
    p.lr = (float)golden_number(b->golden, "lr"), p.optimiser.weight_decay = (float)golden_number(b->golden, "weight_decay");
    p.optimiser.beta1 = golden_number(b->golden, "beta1"), p.optimiser.beta2 = golden_number(b->golden, "beta2");
    p.optimiser.eps = (float)golden_number(b->golden, "eps"),
    p.optimiser.max_grad_norm = (float)golden_number(b->golden, "clip");
    p.batch = b->latent.n, p.steps = b->steps, p.schedule.kind = TRAIN_CONSTANT;
    p.resolution = b->latent.w * vae_config_factor(&b->e->model->vae);
    p.remat = remat ? TRAIN_REMAT_ON : TRAIN_REMAT_OFF;
    p.train_text_encoder = b->ids[0] != NULL;
    if (p.train_text_encoder) targets = arena_strndup(b->a, targets, strlen(targets) - strlen("-te"));
    if (!lora_selection_parse(targets, &p.targets, &e)) fail_msg("%s", e.text);
    return p;
}

static float *rows_if(struct train_bench *b, const char *name) {
    return st_find(b->golden, name) ? golden_rows(b->golden, name, b->a, NULL) : NULL;
}

static void read_inputs(struct train_bench *b) {
    struct shape s;
    b->steps = (int)golden_number(b->golden, "steps");
    b->latents = golden_rows(b->golden, "latents", b->a, &s);
    b->noise = golden_rows(b->golden, "noise", b->a, NULL);
    b->latent = (struct shape){s.n / b->steps, s.h, s.w, s.c};
    b->n_step = (size_t)shape_elems(b->latent);
    b->context = rows_if(b, "context");
    b->pooled = rows_if(b, "pooled"), b->time_ids = rows_if(b, "time_ids");
    b->ids[0] = rows_if(b, "ids"), b->ids[1] = rows_if(b, "ids_2");
    b->losses = golden_rows(b->golden, "losses", b->a, NULL);
    float *t = golden_rows(b->golden, "timesteps", b->a, NULL);
    b->times = arena_alloc_n(b->a, (size_t)s.n, sizeof *b->times);
    for (int i = 0; i < s.n; i++) b->times[i] = (int)t[i];
}

static const char *tensor_name(struct train_bench *b, const char *prefix, const struct lora_stack_layer *l, const char *tail) {
    const struct adapter *ad = trainer_adapter(b->t);
    const char *part = l->model == ad->models[LORA_UNET]   ? "lora_unet"
                       : l->model == ad->models[LORA_TEXT] ? "lora_te1"
                                                           : "lora_te2";
    char *path = arena_strdup(b->a, l->target->path);
    for (char *c = path; *c; c++)
        if (*c == '.') *c = '_';
    return arena_printf(b->a, "%s.%s_%s.%s.weight", prefix, part, path, tail);
}

/* The golden's weights into the trainer's slots; as many as the file has. */
static void set_start(struct train_bench *b) {
    struct error e = {{0}};
    struct adapter *ad = trainer_adapter(b->t);
    struct lora_stack *s = ad->stack;
    int given = 0;
    for (size_t i = 0; i < st_count(b->golden); i++) given += !strncmp(st_at(b->golden, i)->name, "start.", 6);
    assert_int_equal(given, 2 * s->n_layers);
    for (int i = 0; i < s->n_layers; i++) {
        struct lora_stack_layer *l = &s->layers[i];
        l->parts[0].down = golden_weight(b->golden, tensor_name(b, "start", l, "lora_down"), b->a, NULL);
        l->parts[0].up = golden_weight(b->golden, tensor_name(b, "start", l, "lora_up"), b->a, NULL);
        const int slots[] = {l->down, l->up};
        for (int k = 0; k < 2; k++) {
            float *rows = arena_alloc_n(b->a, (size_t)shape_elems(s->set->slots[slots[k]].shape), sizeof *rows);
            assert_true(lora_stack_read_slot(s, slots[k], rows, NULL));
            if (!gpu_set_write(ad->data, slots[k], rows, &e)) fail_msg("%s", e.text);
        }
    }
}

struct train_bench train_bench_open(const struct train_bench_run *r, int rig, bool remat,
                                    void (*change)(struct train_params *p)) {
    struct error e = {{0}};
    struct train_bench b = {.a = arena_create(NULL)};
    b.golden = golden_open(arena_printf(b.a, "%s.train-%s", r->model, r->targets));
    read_inputs(&b);
    b.e = session_open(r->model, rig);
    struct train_params p = params_of(&b, r->targets, remat);
    if (change) change(&p);
    if (!(b.t = trainer_create(b.e, &p, false, &e))) fail_msg("%s", e.text);
    set_start(&b);
    return b;
}

void train_bench_close(struct train_bench *b) {
    trainer_destroy(&b->t);
    session_close(&b->e);
    st_close(&b->golden);
    arena_destroy(&b->a);
}

double train_bench_step(struct train_bench *b, int k, bool update) {
    struct error e = {{0}};
    float losses[8];
    double mean = 0;
    struct train_given given = {b->latents + (size_t)k * b->n_step, b->noise + (size_t)k * b->n_step, b->context,
                                b->times + k * b->latent.n, {b->ids[0], b->ids[1]}, b->pooled, b->time_ids};
    if (!trainer_step_given(b->t, &given, update, losses, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < b->latent.n; i++) mean += (double)losses[i] / b->latent.n;
    return mean;
}

/* One tensor's gradient against the golden's, over its largest value. */
static double gradient_error(struct train_bench *b, const struct st_file *golden, const struct lora_stack_layer *l, bool up) {
    struct error e = {{0}};
    struct lora_stack *s = trainer_adapter(b->t)->stack;
    struct arena *a = arena_create(NULL);
    struct shape shape;
    int slot = up ? l->up : l->down;
    float *want = golden_weight(golden, tensor_name(b, "gradient", l, up ? "lora_up" : "lora_down"), a, &shape);
    size_t n = (size_t)shape_elems(shape);
    float *rows = arena_alloc_n(a, (size_t)shape_elems(s->set->slots[slot].shape), sizeof *rows),
          *got = arena_alloc_n(a, n, sizeof *got);
    if (!gpu_set_read(trainer_gradients(b->t), slot, rows, &e)) fail_msg("%s", e.text);
    lora_stack_extract(l, &l->parts[0], rows, rows, up ? NULL : got, up ? got : NULL);
    double peak = 1e-30, worst = 0, scale = (double)trainer_loss_scale(b->t);
    for (size_t i = 0; i < n; i++) {
        peak = fmax(peak, fabs((double)want[i]));
        double d = fabs((double)got[i] / scale - want[i]);
        if (!(d <= worst)) worst = d;
    }
    arena_destroy(&a);
    return worst / peak;
}

void train_bench_gradients(struct train_bench *b, const struct st_file *golden, const char *what, double tolerance) {
    struct lora_stack *s = trainer_adapter(b->t)->stack;
    double worst = 0;
    const char *where = "";
    for (int i = 0; i < s->n_layers; i++)
        for (int up = 0; up < 2; up++) {
            double d = gradient_error(b, golden, &s->layers[i], up);
            if (!(d <= worst)) worst = d, where = s->layers[i].target->path;
        }
    print_message("%s gradients: worst %.2e of the largest value, %s\n", what, worst, where);
    if (!(worst <= tolerance)) fail_msg("%s: the gradient of %s differs by %.3g", what, where, worst);
}

