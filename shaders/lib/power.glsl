// 2^x for x <= 0, at most 2e-7 off and exactly 1 at 0. Lavapipe's exp2 takes 25 instructions, this 17.
float power(float x) {
    precise float y = x < -126.0 ? -126.0 : x; // precise, so that NIR makes no max() of it: NaN must stay NaN
    float whole = roundEven(y), f = y - whole;
    float high = (1.32647273e-3 * f + 9.67151299e-3) * f + 5.55073358e-2;
    float part = ((high * f + 2.40222424e-1) * f + 6.93147004e-1) * f + 1.0;
    return intBitsToFloat(floatBitsToInt(part) + (int(whole) << 23));
}
