package org.edgehadanorm.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;

import org.junit.Test;
import org.junit.runner.RunWith;
import org.junit.runners.Parameterized;
import org.junit.runners.Parameterized.Parameter;
import org.junit.runners.Parameterized.Parameters;

/** The loop of a plan has Python's bits at every step, for what the model is given and for what comes out. */
@RunWith(Parameterized.class)
public class SamplerTest {
    @Parameter
    public String name;

    @Parameter(1)
    public Map<String, Object> expected;

    private final File folder = Vectors.folder("plans");

    @Parameters(name = "{0}")
    public static Collection<Object[]> cases() {
        return Vectors.named(Vectors.<List<Map<String, Object>>>json(new File(Vectors.folder("plans"), "cases.json")));
    }

    @Test
    public void everyStepHasPythonsBits() throws Exception {
        Plan plan = PlanReader.read(expected.get("plan"));
        float[] predictions = floats("predictions");
        float[] inputs = floats("inputs");
        float[] timesteps = floats("timesteps");
        float[] latents = floats("latents");
        int count = ((Long) expected.get("count")).intValue();
        List<Object> asked = new ArrayList<>();
        List<Object> streams = new ArrayList<>();
        Sampler.Model model = (given, timestep, conditioning) -> {
            int call = asked.size();
            asked.add(conditioning.name().toLowerCase());
            Bits.assertSame("input " + call, row(inputs, call, count), given);
            assertEquals(timesteps[call], timestep, 0);
            return row(predictions, call, count);
        };
        double guidance = ((Number) expected.get("guidance")).doubleValue();
        Sampler sampler = new Sampler(plan, guidance);
        for (Conditioning each : Conditioning.values()) {
            boolean predicts = ((List<?>) expected.get("asked")).contains(each.name().toLowerCase());
            assertEquals(predicts, sampler.predicts(each));
        }
        float[] last = sampler.sample(model, stream -> {
            streams.add((long) stream);
            return Noise.normal((Long) expected.get("seed"), count, stream);
        }, known(), (k, stepped) -> Bits.assertSame("latents " + k, row(latents, k, count), stepped));
        Bits.assertSame("the last latents", row(latents, plan.steps() - 1, count), last);
        assertEquals(expected.get("asked"), asked);
        assertEquals(expected.get("streams"), streams);
    }

    @Test
    public void aPictureTakesAPlanThatSaysHowNoisyItsLatentsAre() throws Exception {
        Plan plan = PlanReader.read(expected.get("plan"));
        for (boolean masked : new boolean[] {false, true}) {
            boolean known = plan.at(plan.guidance().orElse(1)).stream().limit(masked ? plan.steps() : 1)
                    .allMatch(step -> step.known().isPresent());
            if (known) {
                plan.requireKnown(masked);
            } else {
                BundleException error = assertThrows(BundleException.class, () -> plan.requireKnown(masked));
                assertTrue(error.getMessage(), error.getMessage().contains(": no picture can begin it;"));
            }
        }
    }

    /** What the picture of the case begins with. */
    private Optional<Known> known() {
        Optional<float[]> mask = expected.containsKey("mask") ? Optional.of(floats("mask")) : Optional.empty();
        return expected.containsKey("known") ? Optional.of(new Known(floats("known"), mask)) : Optional.empty();
    }

    private float[] floats(String key) {
        return Vectors.floats(folder, expected.get(key));
    }

    private static float[] row(float[] values, int index, int count) {
        return Arrays.copyOfRange(values, index * count, (index + 1) * count);
    }
}
