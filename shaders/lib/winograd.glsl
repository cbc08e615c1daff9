// One-dimensional transforms of F(2,3) and F(4,3) (Lavin and Gray, 2015) over vec4 arrays of six.
layout(constant_id = 2) const int M = 4; // outputs per side of a tile: 2 or 4
const int N = M + 2;

void transform_input(inout vec4 a[6]) {
    if (M == 2) {
        a[0] -= a[2];
        vec4 s = a[1] + a[2], t = a[2] - a[1];
        a[3] = a[1] - a[3];
        a[1] = s;
        a[2] = t;
    } else {
        vec4 p = a[4] - 4.0 * a[2], q = a[3] - 4.0 * a[1], r = a[4] - a[2], s = 2.0 * (a[3] - a[1]);
        a[0] = 4.0 * a[0] - 5.0 * a[2] + a[4];
        a[5] = 4.0 * a[1] - 5.0 * a[3] + a[5];
        a[1] = p + q;
        a[2] = p - q;
        a[3] = r + s;
        a[4] = r - s;
    }
}
void transform_output(inout vec4 a[6]) {
    if (M == 2) {
        a[0] += a[1] + a[2];
        a[1] -= a[2] + a[3];
    } else {
        vec4 s = a[1] + a[2], d = a[1] - a[2], u = a[3] + a[4], v = a[3] - a[4];
        a[0] += s + u;
        a[1] = d + 2.0 * v;
        a[2] = s + 4.0 * u;
        a[3] = d + 8.0 * v + a[5];
    }
}
// Three taps to N values.
void transform_weight(inout vec4 a[6]) {
    vec4 x = a[0], y = a[1], z = a[2];
    if (M == 2) {
        a[1] = 0.5 * (x + y + z);
        a[2] = 0.5 * (x - y + z);
        a[3] = z;
    } else {
        a[0] = 0.25 * x;
        a[1] = (-1.0 / 6.0) * (x + y + z);
        a[2] = (-1.0 / 6.0) * (x - y + z);
        a[3] = (1.0 / 24.0) * x + (1.0 / 12.0) * y + (1.0 / 6.0) * z;
        a[4] = (1.0 / 24.0) * x - (1.0 / 12.0) * y + (1.0 / 6.0) * z;
        a[5] = z;
    }
}
