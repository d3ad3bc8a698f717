package org.edgehadanorm.core.text;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertThrows;

import java.util.Arrays;
import java.util.Random;

import org.junit.Test;

/** Base64 against the JDK's. */
public final class Base64Test {
    @Test
    public void bytesOfEveryLengthAreReadBack() {
        byte[] bytes = new byte[300];
        new Random(1).nextBytes(bytes);
        for (int length = 0; length <= bytes.length; length++) {
            byte[] some = Arrays.copyOf(bytes, length);
            assertArrayEquals(some, Base64.decoded(java.util.Base64.getEncoder().encodeToString(some)));
        }
    }

    @Test
    public void whatIsNoBase64IsRefused() {
        for (String text : new String[] {"a", "ab", "abc", "abcde", "ab=c", "a===", "====", "abc-", "ab\nc", "ab c"}) {
            assertThrows(text, IllegalArgumentException.class, () -> Base64.decoded(text));
        }
    }
}
