#include "engine/lora_spec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static bool number(const char **s, float *out) {
    char *end;
    double v = strtod(*s, &end);
    /* strtod takes "0." of "0..1" for a number: the point belongs to the dots */
    if (end > *s && end[-1] == '.' && *end == '.') end--;
    if (end == *s || !isfinite(v) || fabs(v) > 100) return false;
    *s = end, *out = (float)v;
    return true;
}

/* "@0-40%" or "@40-100%". */
static bool window(const char **s, struct guide_course *c) {
    float begin, end;
    ++*s;
    if (!number(s, &begin) || **s != '-') return false;
    ++*s;
    if (!number(s, &end) || **s != '%' || !(0 <= begin && begin < end && end <= 100)) return false;
    ++*s;
    c->begin = begin / 100, c->end = end / 100;
    return true;
}

/* The strength is the larger of both ends, and the course its share of that, so that 0..1 is a LoRA of strength 1. */
static bool course(const char *text, struct lora_spec *out) {
    float from = 1, to;
    const char *s = text;
    if (*s && *s != '@' && !number(&s, &from)) return false;
    to = from;
    if (!strncmp(s, "..", 2)) {
        s += 2;
        if (!number(&s, &to)) return false;
    }
    out->strength = fabsf(to) > fabsf(from) ? to : from;
    out->course = (struct guide_course){1, 1, 0, 1};
    if (from != to) out->course.from = from / out->strength, out->course.to = to / out->strength;
    return (*s != '@' || window(&s, &out->course)) && !*s;
}

bool lora_spec_parse(const char *text, struct arena *a, struct lora_spec *out, struct error *e) {
    const char *colon = strchr(text, ':'), *plain = colon ? arena_strndup(a, text, (size_t)(colon - text)) : text;
    *out = (struct lora_spec){.strength = 1};
    if (!course(plain, out))
        return error_set(e, "The LoRA strength \"%s\" is none; write a number up to 100, 0.2..1.0 for a course over the steps, "
                            "or 0.8@0-40%% for a part of them.", TEXT_SHOW(plain));
    if (colon && !lora_blocks_parse(colon + 1, &out->blocks, e)) return false;
    out->has_blocks = colon != NULL;
    const struct guide_course *c = &out->course;
    if (colon || c->from != c->to || c->begin != 0 || c->end != 1) out->details = arena_strdup(a, text);
    return true;
}
