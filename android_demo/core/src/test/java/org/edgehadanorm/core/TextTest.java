package org.edgehadanorm.core;

import static org.junit.Assert.assertEquals;

import java.util.Arrays;

import org.junit.Test;

/** Messages have one line of an agreeable length. */
public class TextTest {
    @Test
    public void longTextsAreShortened() {
        assertEquals("twelve chars", Text.shortened("twelve chars", 12));
        assertEquals("twelve c ...", Text.shortened("twelve characters", 12));
        assertEquals("a ...", Text.shortened("a\uD83D\uDE00bcdef", 6));  // no half of a pair
        assertEquals("\uD83D\uDE00 ...", Text.shortened("\uD83D\uDE00bcdef", 6));
    }

    @Test
    public void whatIsNoTextIsShownAsSuch() {
        assertEquals("a?b?c \uD83D\uDE00", Text.plain("a\nb\uD800c \uD83D\uDE00"));
        assertEquals("IllegalStateException", Text.of(new IllegalStateException()));
        assertEquals("two? lines", Text.of(new IllegalStateException("two\n lines")));
    }

    @Test
    public void manyNamesAreCounted() {
        assertEquals("1, 2, 3", Text.some(Arrays.asList(1, 2, 3), 3));
        assertEquals("1, 2 or one of 1 more", Text.some(Arrays.asList(1, 2, 3), 2));
        assertEquals("", Text.some(Arrays.asList(), 2));
    }
}
