/* The miniature models against diffusers' answers, by the double references or on a device. */
#ifndef ATELIER_TESTS_MODEL_CHECKS_H
#define ATELIER_TESTS_MODEL_CHECKS_H

struct gpu_device;

struct model_check {
    const char *name;
    void (*run)(void);
};
extern const struct model_check model_checks[];
extern const int n_model_checks;
/* Fails the test where an answer is off by more than 1e-4 of its range (1e-2 where the device stores f16).
 * dev NULL: double references. */
void model_check_run(const struct model_check *check, struct gpu_device *dev);
#endif
