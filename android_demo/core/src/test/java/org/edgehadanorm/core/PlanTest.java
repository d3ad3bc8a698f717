package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

import org.junit.Test;

/** The numbers of a plan at a guidance have Python's bits, and what Python refuses is refused. */
public class PlanTest {
    private final List<Map<String, Object>> cases =
            Vectors.json(new File(Vectors.folder("plans"), "cases.json"));

    @Test
    @SuppressWarnings("unchecked")
    public void coefficientsHavePythonsBits() throws Exception {
        for (Map<String, Object> each : cases) {
            Plan plan = PlanReader.read(each.get("plan"));
            for (Map<String, Object> at : (List<Map<String, Object>>) each.get("coefficients")) {
                double guidance = ((Number) at.get("guidance")).doubleValue();
                List<Map<String, Object>> expected = (List<Map<String, Object>>) at.get("steps");
                List<Step> steps = plan.at(guidance);
                assertEquals(expected.size(), plan.steps());
                assertEquals(expected.size(), steps.size());
                for (int k = 0; k < steps.size(); k++) {
                    check(each.get("name") + " at " + guidance + ", step " + k, expected.get(k), steps.get(k));
                }
                boolean negative = expected.stream().anyMatch(step -> names(step).contains("negative"));
                assertEquals(negative, plan.takesNegative(guidance));
            }
        }
    }

    @Test
    public void aPictureBeginsWhereItDoesInPython() throws Exception {
        int begun = 0;
        for (Map<String, Object> each : cases) {
            Plan plan = PlanReader.read(each.get("plan"));
            for (Object item : (List<?>) each.get("begun")) {
                Map<?, ?> expected = (Map<?, ?>) item;
                String where = each.get("name") + " at strength " + expected.get("strength");
                double strength = ((Number) expected.get("strength")).doubleValue();
                if (expected.containsKey("refusal")) {
                    checkRefusal((String) expected.get("refusal"), plan, strength);
                } else {
                    check(where, expected, plan.begun(strength));
                    begun++;
                }
            }
            assertThrows(BundleException.class, () -> plan.begun(Double.NaN));
        }
        assertTrue(begun > 200);
    }

    private static void checkRefusal(String expected, Plan plan, double strength) {
        String message = assertThrows(BundleException.class, () -> plan.begun(strength)).getMessage();
        if (expected.startsWith("`strength` is")) {  // a number, which Python writes otherwise
            assertEquals("strength is " + strength + ", not a number above 0 and at most 1", message);
        } else {
            assertEquals(expected.replace("`", ""), message);
        }
    }

    @SuppressWarnings("unchecked")
    private static void check(String where, Map<?, ?> expected, Plan plan) throws BundleException {
        List<Map<String, Object>> steps = (List<Map<String, Object>>) expected.get("steps");
        assertEquals(where, steps.size(), plan.steps());
        assertBits(where, expected.get("noise_scale"), plan.noiseScale());
        List<Step> found = plan.at(((Number) expected.get("guidance")).doubleValue());
        for (int k = 0; k < steps.size(); k++) {
            check(where + ", step " + k, steps.get(k), found.get(k));
        }
    }

    @Test
    public void guidancesThatPythonRefusesAreRefusedInOneLine() throws Exception {
        for (Map<String, Object> each : cases) {
            Plan plan = PlanReader.read(each.get("plan"));
            for (Object guidance : (List<?>) each.get("refused")) {
                BundleException error =
                        assertThrows(BundleException.class, () -> plan.at(((Number) guidance).doubleValue()));
                assertTrue(error.getMessage(), error.getMessage().startsWith("guidance is "));
            }
            assertThrows(BundleException.class, () -> plan.at(Double.NaN));
        }
    }

    @Test
    public void aPlanThatWasMadeForOneGuidanceSaysWhichOne() throws Exception {
        Plan plan = PlanReader.read(Json.parse("{\"noise_scale\": 1, \"guidance\": 3.5, \"rows\": "
                + "[{\"timestep\": 1, \"input_scale\": 1, \"a\": 1, \"b_text\": [2], \"b_negative\": [-1]}]}"));
        BundleException error = assertThrows(BundleException.class, () -> plan.at(4));
        assertEquals("guidance is 4.0, and these steps were made for 3.5 alone; take that", error.getMessage());
        assertEquals(3.5, plan.guidance().getAsDouble(), 0);
        assertTrue(plan.takesNegative(3.5));
    }

    @Test
    public void aPredictionIsKeptUntilItIsTakenForTheLastTime() throws Exception {
        Plan plan = PlanReader.read(Json.parse("{\"noise_scale\": 1, \"guidance\": null, \"rows\": ["
                + "{\"timestep\": 2, \"input_scale\": 1, \"a\": 1},"
                + "{\"timestep\": 1, \"input_scale\": 1, \"a\": 1, \"b_text\": [1, 0]},"
                + "{\"timestep\": 0, \"input_scale\": 1, \"a\": 1, \"b\": [0, 0, 1]}]}"));
        List<Integer> text = new ArrayList<>();
        List<Integer> negative = new ArrayList<>();
        for (Step step : plan.at(2)) {
            text.add(step.lastUse(Conditioning.TEXT));
            negative.add(step.lastUse(Conditioning.NEGATIVE));
        }
        assertEquals(Arrays.asList(2, 1, -1), text);
        assertEquals(Arrays.asList(2, -1, -1), negative);
        assertFalse(plan.takesNegative(1));
    }

    private static void check(String where, Map<String, Object> expected, Step step) {
        assertBits(where, expected.get("numbers"), step.timestep(), step.inputScale(), step.a());
        assertBits(where, expected.get("text"), step.coefficients(Conditioning.TEXT));
        assertBits(where, expected.get("negative"), step.coefficients(Conditioning.NEGATIVE));
        assertBits(where, expected.get("noise"), step.noise());
        assertBits(where, expected.get("known"), step.known().orElse(new float[0]));
        for (Conditioning each : Conditioning.values()) {
            assertEquals(where, names(expected).contains(each.name().toLowerCase()), step.predicts(each));
        }
    }

    private static List<?> names(Map<String, Object> step) {
        return (List<?>) step.get("predicted");
    }

    /** bits: unsigned integers of 32 bits. */
    private static void assertBits(String where, Object bits, float... numbers) {
        int[] expected = ((List<?>) bits).stream().mapToInt(value -> ((Long) value).intValue()).toArray();
        assertArrayEquals(where, expected, Bits.of(numbers));
    }
}
