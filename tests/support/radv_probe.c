#include "tests/support/radv_probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <volk.h>

#include "gpu/shader_blobs.h"

static VkInstance instance;
static VkDevice device;
static VkPipelineLayout layout;
static uint32_t subgroup;

const char *radv_manifest(void) {
    static const char *const paths[] = {"/usr/share/vulkan/icd.d/radeon_icd.x86_64.json",
                                        "/usr/share/vulkan/icd.d/radeon_icd.json"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (access(paths[i], R_OK) == 0) return paths[i];
    return NULL;
}

void radv_choose(const char *family) {
    setenv("RADV_FORCE_FAMILY", family, 1);
    setenv("VK_ICD_FILENAMES", radv_manifest(), 1);
    setenv("VK_DRIVER_FILES", radv_manifest(), 1);
    setenv("XDG_RUNTIME_DIR", "/tmp", 0);
    setenv("MESA_SHADER_CACHE_DISABLE", "true", 1); /* a cached pipeline has no figures */
}

static bool complain(const char *what, VkResult r) {
    fprintf(stderr, "%s failed (%d)\n", what, r);
    return false;
}

static bool open_device(VkPhysicalDevice physical) {
    float priority = 1;
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1,
                                     .pQueuePriorities = &priority};
    VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR figures = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR,
        .pipelineExecutableInfo = VK_TRUE};
    VkPhysicalDeviceVulkan12Features f12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                            .pNext = &figures, .bufferDeviceAddress = VK_TRUE};
    VkPhysicalDeviceFeatures2 f = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &f12,
                                   .features = {.shaderInt64 = VK_TRUE}};
    const char *extension = VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME;
    VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .pNext = &f, .queueCreateInfoCount = 1,
                               .pQueueCreateInfos = &queue, .enabledExtensionCount = 1,
                               .ppEnabledExtensionNames = &extension};
    VkResult r = vkCreateDevice(physical, &info, NULL, &device);
    if (r) return complain("opening the made-up device", r);
    volkLoadDevice(device);
    VkPushConstantRange push = {VK_SHADER_STAGE_COMPUTE_BIT, 0, 128};
    VkPipelineLayoutCreateInfo l = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                    .pushConstantRangeCount = 1, .pPushConstantRanges = &push};
    r = vkCreatePipelineLayout(device, &l, NULL, &layout);
    return !r || complain("making a layout", r);
}

bool radv_open(char name[256]) {
    VkResult r = volkInitialize();
    if (r) return complain("loading Vulkan", r);
    VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_2};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &app};
    r = vkCreateInstance(&info, NULL, &instance);
    if (r) return complain("making an instance", r);
    volkLoadInstance(instance);
    VkPhysicalDevice physical;
    uint32_t n = 1;
    vkEnumeratePhysicalDevices(instance, &n, &physical);
    if (!n) return complain("finding a device", VK_SUCCESS);
    VkPhysicalDeviceSubgroupProperties sg = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES};
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &sg};
    vkGetPhysicalDeviceProperties2(physical, &p);
    snprintf(name, 256, "%s", p.properties.deviceName);
    subgroup = sg.subgroupSize;
    return open_device(physical);
}

uint32_t radv_subgroup(void) { return subgroup; }

void radv_close(void) {
    vkDestroyPipelineLayout(device, layout, NULL);
    vkDestroyDevice(device, NULL);
    vkDestroyInstance(instance, NULL);
}

static bool find_blob(const char *shader, struct shader_blob *out) {
    char name[96];
    snprintf(name, sizeof name, "%s_gpu", shader);
    for (size_t i = 0; i < shader_blob_count(); i++) {
        *out = shader_blob_at(i);
        if (!strcmp(out->name, name)) return true;
    }
    fprintf(stderr, "no shader %s\n", name);
    return false;
}

static void read_figures(VkPipeline pipeline, struct radv_figures *out) {
    VkPipelineExecutableInfoKHR info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, .pipeline = pipeline};
    VkPipelineExecutableStatisticKHR s[32] = {0};
    uint32_t n = 32;
    for (uint32_t i = 0; i < n; i++) s[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
    vkGetPipelineExecutableStatisticsKHR(device, &info, &n, s);
    struct {
        const char *name;
        uint64_t *to;
    } wanted[] = {{"VGPRs", &out->vgprs}, {"SGPRs", &out->sgprs}, {"Spilled VGPRs", &out->spilled_vgprs},
                  {"Spilled SGPRs", &out->spilled_sgprs}, {"Scratch size", &out->scratch_bytes},
                  {"LDS size", &out->lds_bytes}, {"Code size", &out->code_bytes}, {"Subgroups per SIMD", &out->waves}};
    for (size_t k = 0; k < sizeof wanted / sizeof *wanted; k++)
        for (uint32_t i = 0; i < n; i++)
            if (!strcmp(s[i].name, wanted[k].name)) *wanted[k].to = s[i].value.u64;
}

bool radv_compile(const struct radv_pipeline *p, struct radv_figures *out) {
    *out = (struct radv_figures){0};
    struct shader_blob blob;
    if (!find_blob(p->shader, &blob)) return false;
    VkShaderModuleCreateInfo m = {.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = blob.bytes,
                                  .pCode = blob.words};
    VkShaderModule module;
    VkResult r = vkCreateShaderModule(device, &m, NULL, &module);
    if (r) return complain("loading a shader", r);
    VkSpecializationMapEntry entries[RADV_MAX_SPEC];
    for (int i = 0; i < p->n_spec; i++) entries[i] = (VkSpecializationMapEntry){(uint32_t)i, (uint32_t)(4 * i), 4};
    VkSpecializationInfo spec = {(uint32_t)p->n_spec, entries, (size_t)p->n_spec * 4, p->spec};
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO, .flags = VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO, .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = module, .pName = "main", .pSpecializationInfo = &spec},
        .layout = layout};
    VkPipeline pipeline = VK_NULL_HANDLE;
    r = vkCreateComputePipelines(device, VK_NULL_HANDLE, 1, &info, NULL, &pipeline);
    vkDestroyShaderModule(device, module, NULL);
    if (r) return complain(p->shader, r);
    read_figures(pipeline, out);
    vkDestroyPipeline(device, pipeline, NULL);
    return true;
}
