/* Instance, validation messages, choice of the device. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "gpu/instance_priv.h"

static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                 VkDebugUtilsMessageTypeFlagsEXT types,
                                                 const VkDebugUtilsMessengerCallbackDataEXT *data, void *user) {
    struct gpu_device *dev = user;
    (void)types;
    if (severity < VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT) return VK_FALSE;
    dev->messages++;
    log_warn("Vulkan validation: %s", data->pMessage);
    return VK_FALSE;
}

static bool has_layer(const char *name) {
    uint32_t n = 0;
    vkEnumerateInstanceLayerProperties(&n, NULL);
    VkLayerProperties *layers = calloc(n ? n : 1, sizeof *layers);
    vkEnumerateInstanceLayerProperties(&n, layers);
    bool found = false;
    for (uint32_t i = 0; i < n; i++) found |= !strcmp(layers[i].layerName, name);
    free(layers);
    return found;
}

bool gpu_instance_create(struct gpu_device *dev, struct error *err) {
    /* Lavapipe takes 512-bit vectors only when asked; where the CPU has them they are 1.7-2x as fast. */
    if (os_cpu_has_avx512()) os_setenv_default("LP_NATIVE_VECTOR_WIDTH", "512");
    if (volkInitialize() != VK_SUCCESS)
        return error_set(err, "No Vulkan loader (libvulkan.so.1) was found on this machine; install it (Debian: libvulkan1, "
                         "and mesa-vulkan-drivers for the CPU device).");
    const char *layer = "VK_LAYER_KHRONOS_validation";
    const char *extension = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    if (dev->params.validate && !has_layer(layer))
        return error_set(err, "Validation was asked for, but the layer %s is not installed (Debian: vulkan-validationlayers).",
                         layer);
    VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .pApplicationName = "atelier",
                             .apiVersion = VK_API_VERSION_1_2};
    VkValidationFeatureEnableEXT sync = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT;
    VkValidationFeaturesEXT features = {.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
                                        .enabledValidationFeatureCount = 1, .pEnabledValidationFeatures = &sync};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &app};
    if (dev->params.validate) {
        info.pNext = &features;
        info.enabledLayerCount = 1, info.ppEnabledLayerNames = &layer;
        info.enabledExtensionCount = 1, info.ppEnabledExtensionNames = &extension;
    }
    VkResult r = vkCreateInstance(&info, NULL, &dev->instance);
    if (r == VK_ERROR_INCOMPATIBLE_DRIVER)
        return error_set(err, "The Vulkan loader found no driver that works: install one (Debian: mesa-vulkan-drivers), or see "
                         "where VK_ICD_FILENAMES and VK_DRIVER_FILES point.");
    if (r != VK_SUCCESS)
        return error_set(err, "The Vulkan loader could not start (code %d); check that a driver is installed (Debian: "
                         "mesa-vulkan-drivers).", r);
    volkLoadInstance(dev->instance);
    if (dev->params.validate) {
        VkDebugUtilsMessengerCreateInfoEXT m = {
            .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
            .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
            .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT, .pfnUserCallback = on_message, .pUserData = dev};
        vkCreateDebugUtilsMessengerEXT(dev->instance, &m, NULL, &dev->messenger);
    }
    return true;
}

static const char *kind_name(VkPhysicalDeviceType t) {
    switch (t) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return "discrete";
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return "integrated";
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return "cpu";
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return "virtual";
    default: return "other";
    }
}

/* What an engine of this kind cannot do without; fills `reason`. */
static bool device_usable(VkPhysicalDevice pd, char *reason, size_t n) {
    VkPhysicalDeviceProperties props;
    vkGetPhysicalDeviceProperties(pd, &props);
    if (props.apiVersion < VK_API_VERSION_1_2) {
        snprintf(reason, n, "its driver offers Vulkan %u.%u, 1.2 is needed", VK_API_VERSION_MAJOR(props.apiVersion),
                 VK_API_VERSION_MINOR(props.apiVersion));
        return false;
    }
    VkPhysicalDeviceVulkan12Features f12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES};
    VkPhysicalDeviceFeatures2 f = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &f12};
    vkGetPhysicalDeviceFeatures2(pd, &f);
    if (!f12.bufferDeviceAddress || !f.features.shaderInt64) {
        snprintf(reason, n, "its driver lacks %s", !f12.bufferDeviceAddress ? "bufferDeviceAddress" : "shaderInt64");
        return false;
    }
    return true;
}

static int rank_of(VkPhysicalDeviceType t) {
    return t == VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU ? 4 : t == VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU ? 3
         : t == VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU ? 2 : t == VK_PHYSICAL_DEVICE_TYPE_CPU ? 1 : 0;
}

static bool contains_nocase(const char *text, const char *part) {
    size_t n = strlen(part);
    for (; *text; text++) {
        size_t i = 0;
        while (i < n && text[i] && tolower((unsigned char)text[i]) == tolower((unsigned char)part[i])) i++;
        if (i == n) return true;
    }
    return false;
}

static bool wanted(const char *want, int index, const VkPhysicalDeviceProperties *p) {
    if (!want) return true;
    char *end;
    long i = strtol(want, &end, 10);
    if (end != want && !*end) return i == index;
    if (!strcmp(want, "cpu")) return p->deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
    if (!strcmp(want, "gpu")) return p->deviceType != VK_PHYSICAL_DEVICE_TYPE_CPU;
    return contains_nocase(p->deviceName, want);
}

bool gpu_instance_pick(struct gpu_device *dev, struct error *err) {
    VkPhysicalDevice list[32];
    uint32_t n = 32;
    vkEnumeratePhysicalDevices(dev->instance, &n, list);
    if (!n)
        return error_set(err, "Vulkan found no device on this machine; install a driver (for the CPU device on Debian: "
                         "mesa-vulkan-drivers).");
    int best = -1;
    char reason[256] = "";
    for (uint32_t i = 0; i < n; i++) {
        VkPhysicalDeviceProperties p;
        vkGetPhysicalDeviceProperties(list[i], &p);
        if (!wanted(dev->params.device, (int)i, &p) || !device_usable(list[i], reason, sizeof reason)) continue;
        if (best < 0 || rank_of(p.deviceType) > rank_of(dev->properties.deviceType)) {
            best = (int)i;
            dev->properties = p;
        }
    }
    if (best < 0)
        return error_set(err, "No usable Vulkan device matches \"%s\"%s%s; `atelier devices` lists what there is.",
                         dev->params.device ? dev->params.device : "any", reason[0] ? ": " : "", reason);
    dev->physical = list[best];
    return true;
}

int gpu_device_list(struct gpu_listing *out, int max, struct error *err) {
    struct gpu_device probe = {0};
    if (!gpu_instance_create(&probe, err)) return -1;
    VkPhysicalDevice list[32];
    uint32_t n = 32;
    vkEnumeratePhysicalDevices(probe.instance, &n, list);
    for (uint32_t i = 0; i < n && (int)i < max; i++) {
        struct gpu_listing *l = &out[i];
        *l = (struct gpu_listing){0};
        VkPhysicalDeviceVulkan12Properties p12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES};
        VkPhysicalDeviceSubgroupProperties sg = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES, .pNext = &p12};
        VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &sg};
        vkGetPhysicalDeviceProperties2(list[i], &p);
        VkPhysicalDeviceMemoryProperties mem;
        vkGetPhysicalDeviceMemoryProperties(list[i], &mem);
        snprintf(l->name, sizeof l->name, "%s", p.properties.deviceName);
        snprintf(l->driver, sizeof l->driver, "%s %s", p12.driverName, p12.driverInfo);
        snprintf(l->kind, sizeof l->kind, "%s", kind_name(p.properties.deviceType));
        l->subgroup = sg.subgroupSize;
        l->shared_bytes = p.properties.limits.maxComputeSharedMemorySize;
        for (uint32_t h = 0; h < mem.memoryHeapCount; h++)
            if (mem.memoryHeaps[h].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT &&
                (int64_t)mem.memoryHeaps[h].size > l->memory_bytes)
                l->memory_bytes = (int64_t)mem.memoryHeaps[h].size;
        if (p.properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU) l->memory_bytes = (int64_t)os_memory_total();
        l->usable = device_usable(list[i], l->reason, sizeof l->reason);
    }
    vkDestroyInstance(probe.instance, NULL);
    return n < (uint32_t)max ? (int)n : max;
}
