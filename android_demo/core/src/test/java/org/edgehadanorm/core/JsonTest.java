package org.edgehadanorm.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.math.BigInteger;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

import org.junit.Test;

/** JSON of every kind is read as it is meant, and what is no JSON is refused. */
public class JsonTest {
    @Test
    public void everyKindOfValueIsRead() {
        assertEquals(Arrays.asList(1L, -20L, 0L, 1.5, 1e-3, -0.0, true, false, null, "x"),
                Json.parse(" [1,-20 ,0,1.5,1E-3,-0.0,\ttrue,false,null,\"x\"]\r\n"));
        assertEquals(Collections.emptyMap(), Json.parse("{ }"));
        assertEquals(Collections.emptyList(), Json.parse("[\n]"));
        assertEquals(Arrays.asList("b", "a"), Arrays.asList(((Map<?, ?>) Json.parse("{\"b\":{},\"a\":[[]]}")).keySet()
                .toArray()));
    }

    @Test
    public void integersKeepEveryDigit() {
        assertEquals(Long.MAX_VALUE, Json.parse("9223372036854775807"));
        assertEquals(new BigInteger("9223372036854775808"), Json.parse("9223372036854775808"));
        assertEquals(8.0, Json.parse("8.0"));
        assertEquals(Double.POSITIVE_INFINITY, Json.parse("1e999"));
    }

    @Test
    public void stringsKeepEveryCharacter() {
        assertEquals("\"\\/\b\f\n\r\té😀\uD800",
                Json.parse("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83d\\uDE00\\ud800\""));
        assertEquals("日本語 😀", Json.parse("\"日本語 😀\""));
    }

    @Test
    public void theLastOfTwoEqualKeysCounts() {
        assertEquals(Collections.singletonMap("a", 2L), Json.parse("{\"a\": 1, \"a\": 2}"));
    }

    @Test
    public void whatIsNoJsonIsRefused() {
        String[] wrong = {
            "", " ", "{", "[", "[1", "[1,", "[1,]", "[,]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{1:1}", "'a'",
            "\"", "\"\\x\"", "\"\\u12g4\"", "\"\\u+123\"", "\"\n\"", "\"a\tb\"", "01", "-", "-01", "+1", "1.", ".5",
            "1e", "1e+", "0x1", "tru", "nul", "NaN", "Infinity", "-Infinity", "1 2", "[] []", "\u00a01", "// 1", "٣",
        };
        for (String text : wrong) {
            assertThrows(text, IllegalArgumentException.class, () -> Json.parse(text));
        }
    }

    @Test
    public void nestingHasAnEnd() {
        char[] open = new char[100_000];
        Arrays.fill(open, '[');
        assertThrows(IllegalArgumentException.class, () -> Json.parse(new String(open)));
    }

    @Test
    public void whatIsWrittenIsReadBack() {
        Map<String, Object> value = new LinkedHashMap<>();
        value.put("text", "\"\\\n\u0001 é 😀 \uD800");
        value.put("numbers", Arrays.asList(1L, Long.MIN_VALUE, 0.1, 1e300, new BigInteger("98765432109876543210")));
        value.put("others", Arrays.asList(null, true, Collections.emptyMap(), Collections.emptyList()));
        assertEquals(value, Json.parse(Json.write(value)));
    }

    @Test
    public void whatJsonCannotSayIsRefused() {
        for (Object value : new Object[] {Double.NaN, Double.NEGATIVE_INFINITY, new Object()}) {
            assertThrows(IllegalArgumentException.class, () -> Json.write(Collections.singletonList(value)));
        }
    }
}
