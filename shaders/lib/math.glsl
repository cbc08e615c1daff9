// erf after Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
vec4 erf4(vec4 x) {
    vec4 a = abs(x), t = 1.0 / (1.0 + 0.3275911 * a);
    vec4 poly = (((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592;
    vec4 y = 1.0 - poly * t * exp(-a * a);
    return sign(x) * y;
}
vec4 sigmoid4(vec4 x) { return 1.0 / (1.0 + exp(-x)); }
vec4 silu4(vec4 x) { return x * sigmoid4(x); }
vec4 silu_slope4(vec4 x) { vec4 s = sigmoid4(x); return s * (1.0 + x * (1.0 - s)); }
vec4 gelu4(vec4 x) { return 0.5 * x * (1.0 + erf4(x * 0.70710678)); }
vec4 gelu_slope4(vec4 x) { return 0.5 * (1.0 + erf4(x * 0.70710678)) + x * 0.39894228 * exp(-0.5 * x * x); }
vec4 quick_gelu4(vec4 x) { return x * sigmoid4(1.702 * x); }
vec4 quick_gelu_slope4(vec4 x) { vec4 s = sigmoid4(1.702 * x); return s * (1.0 + 1.702 * x * (1.0 - s)); }
