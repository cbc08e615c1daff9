/* Event files as TensorBoard reads them: TFRecord frames around Event messages, scalars alone. One owner. */
#ifndef ATELIER_IO_TFEVENTS_H
#define ATELIER_IO_TFEVENTS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct tfevents;

/* A new file events.out.tfevents.SECONDS.atelier in dir (made if need be). first_step above 0: a run goes on
 * with it; TensorBoard then forgets what earlier files say of later steps. seconds: since 1970. */
struct tfevents *tfevents_open(const char *dir, double seconds, int64_t first_step, struct error *e);
void tfevents_close(struct tfevents **t);

struct tfevents_scalar {
    const char *tag; /* "loss/current"; at most 100 bytes */
    float value;
};
/* One event with n scalars, at most 16, in one write. */
bool tfevents_write(struct tfevents *t, double seconds, int64_t step, const struct tfevents_scalar *scalars, int n,
                    struct error *e);

/* CRC-32C (Castagnoli), as TFRecord has it before masking. */
uint32_t tfevents_crc(const void *data, size_t bytes);

#endif
