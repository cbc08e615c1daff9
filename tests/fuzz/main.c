/* libFuzzer's entry for one target; FUZZ_TARGET comes from CMakeLists.txt. */
#include "base/log.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    log_set_level(LOG_QUIET);
    FUZZ_TARGET(data, n);
    return 0;
}
