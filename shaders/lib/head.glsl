// A number a head lies four heads to a texel.
float of_head(vec4 four, int head) {
    vec2 pair = (head & 2) == 0 ? four.xy : four.zw;
    return (head & 1) == 0 ? pair.x : pair.y;
}
