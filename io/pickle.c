#include "io/pickle.h"
#include "base/arena.h"
#include "base/text.h"

#include <string.h>

/* Opcodes that torch.save and Python's pickle write from protocol 2 on. */
enum opcode {
    OP_MARK = '(', OP_STOP = '.', OP_POP = '0', OP_POP_MARK = '1', OP_DUP = '2',
    OP_BININT = 'J', OP_BININT1 = 'K', OP_BININT2 = 'M', OP_NONE = 'N', OP_BINPERSID = 'Q', OP_REDUCE = 'R',
    OP_BINSTRING = 'T', OP_SHORT_BINSTRING = 'U', OP_BINUNICODE = 'X', OP_APPEND = 'a', OP_BUILD = 'b', OP_GLOBAL = 'c',
    OP_DICT = 'd', OP_EMPTY_DICT = '}', OP_APPENDS = 'e', OP_BINGET = 'h', OP_LONG_BINGET = 'j', OP_LIST = 'l',
    OP_EMPTY_LIST = ']', OP_BINPUT = 'q', OP_LONG_BINPUT = 'r', OP_SETITEM = 's', OP_TUPLE = 't', OP_EMPTY_TUPLE = ')',
    OP_SETITEMS = 'u', OP_BINFLOAT = 'G', OP_BINBYTES = 'B', OP_SHORT_BINBYTES = 'C',
    OP_PROTO = 0x80, OP_NEWOBJ = 0x81, OP_TUPLE1 = 0x85, OP_TUPLE2, OP_TUPLE3, OP_NEWTRUE = 0x88, OP_NEWFALSE,
    OP_LONG1 = 0x8a, OP_SHORT_BINUNICODE = 0x8c, OP_BINUNICODE8, OP_BINBYTES8, OP_EMPTY_SET, OP_ADDITEMS, OP_FROZENSET,
    OP_STACK_GLOBAL = 0x93, OP_MEMOIZE, OP_FRAME
};

typedef const struct pickle_value *value;

struct machine {
    struct arena *a;
    const uint8_t *at, *end, *begin;
    pickle_allowed *allowed;
    struct error *e;
    value *stack, *memo;
    uint32_t *marks; /* stack heights */
    size_t n_stack, stack_cap, n_memo, memo_cap, n_marks, marks_cap;
    bool failed;
};

static bool fail(struct machine *m, const char *what) {
    if (!m->failed) error_set(m->e, "its pickle %s (byte %zu)", what, (size_t)(m->at - m->begin));
    m->failed = true;
    return false;
}

static bool take(struct machine *m, size_t n, const uint8_t **out) {
    if ((size_t)(m->end - m->at) < n) return fail(m, "ends in the middle");
    *out = m->at;
    m->at += n;
    return true;
}

/* Little-endian argument of n <= 8 bytes. */
static bool take_number(struct machine *m, size_t n, uint64_t *out) {
    const uint8_t *p;
    if (!take(m, n, &p)) return false;
    *out = 0;
    for (size_t i = 0; i < n; i++) *out |= (uint64_t)p[i] << 8 * i;
    return true;
}

static struct pickle_value *make(struct machine *m, enum pickle_kind kind) {
    struct pickle_value *v = arena_alloc(m->a, sizeof *v);
    v->kind = kind;
    return v;
}

static bool push(struct machine *m, value v) {
    if (m->n_stack == m->stack_cap) {
        size_t cap = 2 * m->stack_cap;
        m->stack = arena_grow(m->a, m->stack, m->n_stack, cap, sizeof *m->stack);
        m->stack_cap = cap;
    }
    m->stack[m->n_stack++] = v;
    return true;
}

/* Nothing reaches below the last mark. */
static size_t floor_of(const struct machine *m) { return m->n_marks ? m->marks[m->n_marks - 1] : 0; }

static value pop(struct machine *m) {
    if (m->n_stack <= floor_of(m)) {
        fail(m, "takes more than it has put down");
        return NULL;
    }
    return m->stack[--m->n_stack];
}

static value top(struct machine *m) {
    if (m->n_stack > floor_of(m)) return m->stack[m->n_stack - 1];
    fail(m, "takes more than it has put down");
    return NULL;
}

static bool push_mark(struct machine *m) {
    if (m->n_marks == m->marks_cap) {
        size_t cap = m->marks_cap ? 2 * m->marks_cap : 64;
        m->marks = arena_grow(m->a, m->marks, m->n_marks, cap, sizeof *m->marks);
        m->marks_cap = cap;
    }
    m->marks[m->n_marks++] = (uint32_t)m->n_stack;
    return true;
}

/* Values since the last mark, which goes; they stay readable until the next push. */
static bool pop_mark(struct machine *m, value **items, size_t *n) {
    if (!m->n_marks) return fail(m, "closes what it has not opened");
    size_t base = m->marks[--m->n_marks];
    *items = m->stack + base;
    *n = m->n_stack - base;
    m->n_stack = base;
    return true;
}

static bool extend(struct machine *m, struct pickle_value *v, const value *items, size_t n) {
    if (v->n + n > v->cap) {
        size_t cap = 2 * (size_t)v->cap > v->n + n ? 2 * (size_t)v->cap : v->n + n;
        v->items = arena_grow(m->a, v->items, v->n, cap, sizeof *v->items);
        v->cap = (uint32_t)cap;
    }
    if (n) memcpy(v->items + v->n, items, n * sizeof *items);
    v->n += (uint32_t)n;
    return true;
}

static bool push_sequence(struct machine *m, enum pickle_kind kind, const value *items, size_t n) {
    struct pickle_value *v = make(m, kind);
    return extend(m, v, items, n) && push(m, v);
}

static bool push_small_tuple(struct machine *m, size_t n) {
    value items[3];
    for (size_t i = n; i-- > 0;)
        if (!(items[i] = pop(m))) return false;
    return push_sequence(m, PICKLE_TUPLE, items, n);
}

static bool push_number(struct machine *m, enum pickle_kind kind, int64_t number) {
    struct pickle_value *v = make(m, kind);
    v->number = number;
    return push(m, v);
}

static bool push_text(struct machine *m, size_t length_bytes) {
    uint64_t n;
    const uint8_t *p;
    if (!take_number(m, length_bytes, &n) || !take(m, (size_t)n, &p)) return false;
    if (memchr(p, 0, (size_t)n)) return fail(m, "has a text with a zero byte");
    struct pickle_value *v = make(m, PICKLE_TEXT);
    v->text = arena_strndup(m->a, (const char *)p, (size_t)n);
    return push(m, v);
}

static bool push_bytes(struct machine *m, size_t length_bytes) {
    uint64_t n;
    const uint8_t *p;
    if (!take_number(m, length_bytes, &n) || !take(m, (size_t)n, &p)) return false;
    return push(m, make(m, PICKLE_BYTES));
}

static bool push_long(struct machine *m) {
    uint64_t n, low = 0;
    if (!take_number(m, 1, &n)) return false;
    if (n > 8) return fail(m, "has a number of more than 64 bits");
    if (!take_number(m, (size_t)n, &low)) return false;
    if (n && n < 8 && low >> (8 * n - 1)) low |= ~(uint64_t)0 << 8 * n;
    return push_number(m, PICKLE_INT, (int64_t)low);
}

static bool push_float(struct machine *m) {
    const uint8_t *p;
    if (!take(m, 8, &p)) return false;
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
    struct pickle_value *v = make(m, PICKLE_FLOAT);
    memcpy(&v->real, &bits, 8);
    return push(m, v);
}

/* ---- Names and calls ---- */

static bool push_name(struct machine *m, const char *module, size_t n_module, const char *name, size_t n_name) {
    struct pickle_value *v = make(m, PICKLE_GLOBAL);
    v->text = arena_printf(m->a, "%.*s.%.*s", (int)n_module, module, (int)n_name, name);
    if (m->allowed(v->text)) return push(m, v);
    if (!m->failed)
        error_set(m->e, "it asks for '%s' of Python, which no weights need; it is not loaded", TEXT_SHOW(v->text));
    m->failed = true;
    return false;
}

/* Two lines: module, name. */
static bool push_global(struct machine *m) {
    const uint8_t *p = m->at, *one = memchr(p, '\n', (size_t)(m->end - p));
    const uint8_t *two = one ? memchr(one + 1, '\n', (size_t)(m->end - one - 1)) : NULL;
    if (!two || two - p > 1000) return fail(m, "has a name without an end");
    m->at = two + 1;
    return push_name(m, (const char *)p, (size_t)(one - p), (const char *)one + 1, (size_t)(two - one - 1));
}

static bool push_stack_global(struct machine *m) {
    value name = pop(m), module = name ? pop(m) : NULL;
    if (!module) return false;
    if (name->kind != PICKLE_TEXT || module->kind != PICKLE_TEXT || strlen(name->text) + strlen(module->text) > 1000)
        return fail(m, "has a name that is no text");
    return push_name(m, module->text, strlen(module->text), name->text, strlen(name->text));
}

/* OrderedDict, the only call that is more than a record: later opcodes fill it. */
static bool push_call(struct machine *m) {
    value args = pop(m), what = args ? pop(m) : NULL;
    if (!what) return false;
    if (what->kind != PICKLE_GLOBAL || args->kind != PICKLE_TUPLE) return fail(m, "calls something that has no name");
    if (!strcmp(what->text, "collections.OrderedDict")) {
        if (args->n) return fail(m, "makes a dictionary in an unknown way");
        return push(m, make(m, PICKLE_DICT));
    }
    return push_sequence(m, PICKLE_CALL, (value[]){what, args}, 2);
}

/* What an object is given after it was made becomes the call's third item; other values have no use for it. */
static bool set_attributes(struct machine *m) {
    value state = pop(m), object = state ? top(m) : NULL;
    if (!object || object->kind != PICKLE_CALL || object->n != 2) return object != NULL;
    return extend(m, (struct pickle_value *)object, &state, 1);
}

static bool push_persistent(struct machine *m) {
    value id = pop(m);
    return id && push_sequence(m, PICKLE_PERSISTENT, &id, 1);
}

/* ---- Containers ---- */

/* Calls take items too: objects that fill themselves are records here, their content is not kept. */
static bool add_items(struct machine *m, enum pickle_kind kind, const value *items, size_t n) {
    struct pickle_value *target = (struct pickle_value *)top(m);
    if (!target) return false;
    if (kind == PICKLE_DICT && n % 2) return fail(m, "has a key without a value");
    if (target->kind == PICKLE_CALL) return true;
    if (target->kind != kind) return fail(m, "puts items into something that holds none");
    return extend(m, target, items, n);
}

static bool add_marked(struct machine *m, enum pickle_kind kind) {
    value *items;
    size_t n;
    if (!pop_mark(m, &items, &n)) return false;
    return add_items(m, kind, items, n);
}

static bool add_one(struct machine *m, enum pickle_kind kind) {
    value items[2];
    size_t n = kind == PICKLE_DICT ? 2 : 1;
    for (size_t i = n; i-- > 0;)
        if (!(items[i] = pop(m))) return false;
    return add_items(m, kind, items, n);
}

static bool push_marked(struct machine *m, enum pickle_kind kind) {
    value *items;
    size_t n;
    if (!pop_mark(m, &items, &n)) return false;
    if (kind == PICKLE_DICT && n % 2) return fail(m, "has a key without a value");
    return push_sequence(m, kind, items, n);
}

/* ---- Memory ---- */

static bool memo_put(struct machine *m, uint64_t index) {
    value v = top(m);
    if (!v) return false;
    if (index >= (size_t)(m->end - m->begin)) return fail(m, "remembers more than it is long");
    if (index >= m->memo_cap) {
        size_t cap = m->memo_cap ? 2 * m->memo_cap : 256;
        while (cap <= index) cap *= 2;
        m->memo = arena_grow(m->a, m->memo, m->memo_cap, cap, sizeof *m->memo);
        m->memo_cap = cap;
    }
    if (index >= m->n_memo) m->n_memo = (size_t)index + 1;
    m->memo[index] = v;
    return true;
}

static bool memo_get(struct machine *m, uint64_t index) {
    if (index >= m->n_memo || !m->memo[index]) return fail(m, "recalls what it never remembered");
    return push(m, m->memo[index]);
}

static bool memo_op(struct machine *m, bool put, size_t bytes) {
    uint64_t index;
    return take_number(m, bytes, &index) && (put ? memo_put(m, index) : memo_get(m, index));
}

/* ---- Opcodes ---- */

static bool run_value(struct machine *m, uint8_t op) {
    uint64_t n;
    switch (op) {
    case OP_NONE: return push(m, make(m, PICKLE_NONE));
    case OP_NEWTRUE: return push_number(m, PICKLE_BOOL, 1);
    case OP_NEWFALSE: return push_number(m, PICKLE_BOOL, 0);
    case OP_BININT: return take_number(m, 4, &n) && push_number(m, PICKLE_INT, (int32_t)n);
    case OP_BININT1: return take_number(m, 1, &n) && push_number(m, PICKLE_INT, (int64_t)n);
    case OP_BININT2: return take_number(m, 2, &n) && push_number(m, PICKLE_INT, (int64_t)n);
    case OP_LONG1: return push_long(m);
    case OP_BINFLOAT: return push_float(m);
    case OP_SHORT_BINUNICODE:
    case OP_SHORT_BINSTRING: return push_text(m, 1);
    case OP_BINUNICODE:
    case OP_BINSTRING: return push_text(m, 4);
    case OP_BINUNICODE8: return push_text(m, 8);
    case OP_SHORT_BINBYTES: return push_bytes(m, 1);
    case OP_BINBYTES: return push_bytes(m, 4);
    case OP_BINBYTES8: return push_bytes(m, 8);
    case OP_GLOBAL: return push_global(m);
    case OP_STACK_GLOBAL: return push_stack_global(m);
    case OP_REDUCE:
    case OP_NEWOBJ: return push_call(m);
    case OP_BINPERSID: return push_persistent(m);
    default: return fail(m, "has an opcode that weights do not need");
    }
}

static bool run_container(struct machine *m, uint8_t op) {
    value *items;
    size_t n;
    switch (op) {
    case OP_MARK: return push_mark(m);
    case OP_POP: return pop(m) != NULL;
    case OP_POP_MARK: return pop_mark(m, &items, &n);
    case OP_DUP: return top(m) && push(m, top(m));
    case OP_EMPTY_DICT: return push(m, make(m, PICKLE_DICT));
    case OP_EMPTY_LIST:
    case OP_EMPTY_SET: return push(m, make(m, PICKLE_LIST));
    case OP_EMPTY_TUPLE: return push(m, make(m, PICKLE_TUPLE));
    case OP_TUPLE1:
    case OP_TUPLE2:
    case OP_TUPLE3: return push_small_tuple(m, (size_t)(op - OP_TUPLE1) + 1);
    case OP_TUPLE: return push_marked(m, PICKLE_TUPLE);
    case OP_LIST:
    case OP_FROZENSET: return push_marked(m, PICKLE_LIST);
    case OP_DICT: return push_marked(m, PICKLE_DICT);
    case OP_APPEND: return add_one(m, PICKLE_LIST);
    case OP_APPENDS:
    case OP_ADDITEMS: return add_marked(m, PICKLE_LIST);
    case OP_SETITEM: return add_one(m, PICKLE_DICT);
    case OP_SETITEMS: return add_marked(m, PICKLE_DICT);
    case OP_BUILD: return set_attributes(m);
    case OP_BINPUT: return memo_op(m, true, 1);
    case OP_LONG_BINPUT: return memo_op(m, true, 4);
    case OP_MEMOIZE: return memo_put(m, m->n_memo);
    case OP_BINGET: return memo_op(m, false, 1);
    case OP_LONG_BINGET: return memo_op(m, false, 4);
    default: return run_value(m, op);
    }
}

const struct pickle_value *pickle_read(struct arena *a, const uint8_t *data, size_t bytes, pickle_allowed *allowed,
                                       struct error *e) {
    struct machine m = {.a = a, .begin = data, .at = data, .end = data + bytes, .allowed = allowed, .e = e};
    m.stack_cap = 256;
    m.stack = arena_alloc_n(a, m.stack_cap, sizeof *m.stack);
    if (bytes > PICKLE_MAX_BYTES) return error_set(e, "its pickle of %zu bytes is longer than weights need", bytes), NULL;
    while (!m.failed) {
        const uint8_t *op;
        uint64_t n;
        if (!take(&m, 1, &op)) break;
        if (*op == OP_STOP) return pop(&m);
        if (*op == OP_PROTO) {
            if (take_number(&m, 1, &n) && n > 5) fail(&m, "is of a protocol later than 5");
        } else if (*op == OP_FRAME) {
            take_number(&m, 8, &n);
        } else {
            run_container(&m, *op);
        }
    }
    return NULL;
}

const struct pickle_value *pickle_get(const struct pickle_value *v, const char *key) {
    for (uint32_t i = 0; v && v->kind == PICKLE_DICT && i < v->n; i += 2)
        if (v->items[i]->kind == PICKLE_TEXT && !strcmp(v->items[i]->text, key)) return v->items[i + 1];
    return NULL;
}

bool pickle_is_call(const struct pickle_value *v, const char *name, uint32_t n_args, const struct pickle_value **args) {
    if (v->kind != PICKLE_CALL || strcmp(v->items[0]->text, name) || v->items[1]->n < n_args) return false;
    *args = v->items[1];
    return true;
}
