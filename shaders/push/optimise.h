/* Flat banks of `texels` texels. more: rates, or an earlier total. */
struct push_optimise {
    REF param, grad, m, v, hyper, more, param_out, m_out, v_out;
    int texels, per_group, n_parts;
};
