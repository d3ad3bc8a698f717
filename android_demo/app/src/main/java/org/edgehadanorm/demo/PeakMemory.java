package org.edgehadanorm.demo;

import java.io.BufferedReader;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;

/** The most memory that this process has had at once, as Linux counts it (VmHWM). */
final class PeakMemory {
    private static final String FIELD = "VmHWM:";
    private final File process;

    PeakMemory() {
        this(new File("/proc/self"));
    }

    PeakMemory(File process) {
        this.process = process;
    }

    /** Counts from what the process has now; systems that do not allow it go on counting from its start. */
    void reset() {
        try (OutputStream out = new FileOutputStream(new File(process, "clear_refs"))) {
            out.write('5');
        } catch (IOException ignored) {
            // The peak since the start is a peak too, and is never less.
        }
    }

    /** KiB, or -1 where the system does not say. */
    long kibibytes() {
        File status = new File(process, "status");
        try (BufferedReader in = new BufferedReader(
                new InputStreamReader(new FileInputStream(status), StandardCharsets.US_ASCII))) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                if (line.startsWith(FIELD)) {
                    return Long.parseLong(line.substring(FIELD.length()).replace("kB", "").trim());
                }
            }
        } catch (IOException | NumberFormatException ignored) {
            return -1;
        }
        return -1;
    }
}
