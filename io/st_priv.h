/* What the readers of safetensors and of PyTorch's files share: a list of named tensors over mapped files. */
#ifndef ATELIER_IO_ST_PRIV_H
#define ATELIER_IO_ST_PRIV_H

#include "base/os.h"
#include "io/safetensors.h"

/* Room for the largest model known (under 20,000 tensors) many times over. */
enum { ST_MAX_TENSORS = 200000 };

struct st_file {
    struct arena *arena;
    const char *path;
    struct os_map *maps;
    size_t n_maps, data_begin; /* data_begin: of a single file */
    struct st_tensor *tensors;
    size_t n_tensors;
    uint32_t *by_name; /* tensor numbers, sorted by name */
    const char **meta; /* key, value, key, value, ... */
    size_t n_meta;
};

/* The file that maps[0] holds, a zip of torch.save: tensors and metadata. */
bool st_read_torch(struct st_file *f, struct error *e);
/* The magic number of torch.save before version 1.6, which is not read. */
bool st_is_old_torch(const uint8_t *data, size_t bytes);

#endif
