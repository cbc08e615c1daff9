#define REF uvec2
