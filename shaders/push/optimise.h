/* Flat banks of `texels` texels. */
struct push_optimise {
    REF param, grad, m, v, hyper, total, param_out, m_out, v_out;
    int texels, per_group, n_parts;
};
