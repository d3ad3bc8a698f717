package org.edgehadanorm.core.text;

import java.util.List;

/** Cuts a normalized piece of a prompt into what the model takes one by one. */
interface PreTokenizer {
    PreTokenizer NONE = java.util.Collections::singletonList;

    List<Slice> split(Slice slice);
}
