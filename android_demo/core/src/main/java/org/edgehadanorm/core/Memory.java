package org.edgehadanorm.core;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.OptionalDouble;

/**
 * Bytes of private memory that a bundle's methods take while they run, as bundle/memory.py has them: each beside what
 * the runtime takes, its program's weights, and what it is given and gives, twice, for the prompt and the negative one.
 * Nothing is known where the system plans activations. They are doubles, which no manifest's numbers overflow.
 */
public final class Memory {
    /** A runtime with its threads, without any program. */
    private static final double RUNTIME = 16_000_000;
    /** Of a program's bytes, what a runtime keeps of it besides the weights. */
    private static final double SHARE = 20;
    private static final int MEBI = 1 << 20;
    private static final String ENCODE_PICTURE = Links.IMAGE_ENCODER + ".encode";
    private static final String DECODE = Links.DECODER + ".decode";
    private static final String DECODE_SMALL = Links.DECODER + "." + Links.SMALL;

    private final Map<String, Double> needs = new LinkedHashMap<>();

    Memory(Map<String, Program> programs, Map<String, Object> files) {
        for (Program program : programs.values()) {
            double weights = bytes(program.path(), files);
            for (Method method : program.called()) {
                if (!method.activations().isPresent()) {
                    needs.clear();
                    return;
                }
                double kept = weights + Math.floor(weights / SHARE);
                needs.put(method.name(), RUNTIME + kept + method.activations().getAsLong() + 2 * method.bytes());
            }
        }
    }

    /** By `role.method` of those that make pictures; empty where nothing is known. */
    Map<String, Double> needs() {
        return Collections.unmodifiableMap(needs);
    }

    /** The least that a picture which begins with noise can be drawn with; empty: nothing is known. */
    public OptionalDouble peak() {
        return peak(false);
    }

    /** The same of one that begins with another. Where there is a method for smaller tiles, it decodes. */
    OptionalDouble peak(boolean begun) {
        return needs.entrySet().stream()
                .filter(need -> begun || !need.getKey().equals(ENCODE_PICTURE))
                .filter(need -> !needs.containsKey(DECODE_SMALL) || !need.getKey().equals(DECODE))
                .mapToDouble(Map.Entry::getValue).max();
    }

    /** Whether `decode` itself fits into so many bytes; 0: nobody knows how many there are. */
    boolean decodes(long free) {
        return free == 0 || needs.getOrDefault(DECODE, 0.0) <= free;
    }

    /** Throws RunnerException, which says what to do, where a picture needs more; 0: nobody knows what is free. */
    void require(String bundle, long free, boolean begun) throws RunnerException {
        double needed = peak(begun).orElse(0);
        if (free == 0 || needed <= free) {
            return;
        }
        boolean fromNoise = peak().orElse(0) <= free;
        throw new RunnerException("bundle " + bundle + " needs " + (long) Math.ceil(needed / MEBI)
                + " MiB of memory " + (fromNoise ? "to begin with a picture" : "for a picture") + ", and "
                + free / MEBI + " MiB are free: close other apps, "
                + (fromNoise ? "or begin with noise" : "or take a smaller bundle"));
    }

    /** Of a program: of its file, or of all files in its folder. */
    private static double bytes(String program, Map<String, Object> files) {
        double total = 0;
        for (String name : files.keySet()) {
            if (name.equals(program) || name.startsWith(program + "/")) {
                total += (Long) Manifest.object(files, name).get("bytes");
            }
        }
        return total;
    }
}
