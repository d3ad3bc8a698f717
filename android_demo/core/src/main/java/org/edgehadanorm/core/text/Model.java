package org.edgehadanorm.core.text;

import java.util.List;

import org.edgehadanorm.core.BundleException;

/** Finds the tokens of a piece of a prompt. */
interface Model {
    /** Throws BundleException where the vocabulary has no token for it, not even one for the unknown. */
    List<Token> tokens(String text) throws BundleException;

    /** The id of a token, or -1 where the vocabulary has none such. */
    int id(String token);

    /** The token in whose place an unknown word was, for which a prompt is refused; empty where none is. */
    String unknown();
}
