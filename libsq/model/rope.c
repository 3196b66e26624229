/* Position tables. Frequencies and angles are rounded to float32 step by step as the reference does:
 * at position 2000 a frequency in double would turn the fastest pairs by another 1e-4. */
#include "sq/config.h"

#include <math.h>

void sq_rope_freqs(float *inv, const struct sq_config *cfg)
{
    const float theta = (float)cfg->rope_theta, factor = (float)cfg->rope_factor;
    for (int64_t i = 0; i < cfg->head_dim / 2; i++) {
        const float power = (float)pow(theta, (float)(2 * i) / (float)cfg->head_dim);
        float f = 1.0f / power;
        if (cfg->rope_type == SQ_ROPE_LINEAR)
            f /= factor;
        if (cfg->rope_type == SQ_ROPE_LLAMA3) {
            /* long waves are stretched, short ones kept, those between blended */
            const float wave = (float)(2 * M_PI) / f, old = (float)cfg->rope_original;
            const float low = (float)cfg->rope_low, high = (float)cfg->rope_high;
            const float blend = (old / wave - low) / (high - low);
            if (wave > (float)((double)cfg->rope_original / cfg->rope_low))
                f /= factor;
            else if (wave >= (float)((double)cfg->rope_original / cfg->rope_high))
                f = (1.0f - blend) * f / factor + blend * f;
        }
        inv[i] = f;
    }
}

void sq_rope_table(float *cos_, float *sin_, const struct sq_config *cfg, int64_t tokens)
{
    const int64_t half = cfg->head_dim / 2;
    float *inv = cos_; /* row 0 holds the frequencies until it is written, last */
    if (tokens <= 0)
        return;
    sq_rope_freqs(inv, cfg);
    for (int64_t t = tokens - 1; t >= 0; t--)
        for (int64_t i = 0; i < half; i++) {
            const float angle = (float)t * inv[i];
            cos_[t * half + i] = (float)cos(angle);
            sin_[t * half + i] = (float)sin(angle);
        }
}
