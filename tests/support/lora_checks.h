/* The adapter hook against peft and against merged weights, by the double references (dev NULL) or on a
 * device. */
#ifndef ATELIER_TESTS_LORA_CHECKS_H
#define ATELIER_TESTS_LORA_CHECKS_H

struct gpu_device;

/* Loss and every gradient of one training step, with and without recompute: within 1e-3 of a tensor's
 * largest. */
void lora_check_gradients(struct gpu_device *dev);
/* One batch whose images carry different mixtures of two LoRAs: each equals its merged model within 1e-4. */
void lora_check_mixtures(struct gpu_device *dev);
#endif
