package org.edgehadanorm.core.text;

/** Rewrites a piece of a prompt. */
interface Normalizer {
    Normalizer NONE = slice -> slice;

    Slice normalized(Slice slice);
}
