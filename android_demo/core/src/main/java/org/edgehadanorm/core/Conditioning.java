package org.edgehadanorm.core;

/** What a prediction is made for, in the order in which both are made. */
enum Conditioning {
    /** The prompt. */
    TEXT,
    /** The negative prompt, which says what is not wanted. */
    NEGATIVE
}
