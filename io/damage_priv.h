/* What to do about files that did not arrive whole; the end of a sentence. */
#ifndef ATELIER_IO_DAMAGE_PRIV_H
#define ATELIER_IO_DAMAGE_PRIV_H

#define FETCH_AGAIN "fetch the file again, or compare its size with what its source says"

#endif
