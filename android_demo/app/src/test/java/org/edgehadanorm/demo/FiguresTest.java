package org.edgehadanorm.demo;

import static org.junit.Assert.assertEquals;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Locale;

import org.edgehadanorm.core.Request;
import org.junit.After;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Names, figures and what Linux says of memory. */
public final class FiguresTest {
    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();

    private final Locale before = Locale.getDefault();

    @Before
    public void speakEnglish() {
        Locale.setDefault(Locale.ENGLISH);
    }

    @After
    public void speakAsBefore() {
        Locale.setDefault(before);
    }

    @Test
    public void namesOfBundlesAreNamesOfFolders() {
        assertEquals("red-apple", BundleStore.plainName("red apple.ZIP"));
        assertEquals("etc-passwd", BundleStore.plainName("../../etc/passwd.zip"));
        assertEquals("bundle", BundleStore.plainName("...zip"));
        assertEquals("bundle", BundleStore.plainName(""));
        assertEquals("日本語", BundleStore.plainName("日本語.zip"));
    }

    @Test
    public void picturesAreNamedForTheirPromptAndSeed() {
        assertEquals("red-apple-7.png", Saver.fileName(new Request("red apple!", "", 7, "8", 1.5)));
        assertEquals("picture-0.png", Saver.fileName(new Request("", "", 0, "8", 1.5)));
    }

    @Test
    public void figuresHaveTheDigitsThatMatter() {
        assertEquals("4.2 ms", Format.milliseconds(4.24));
        assertEquals("42 ms", Format.milliseconds(42.4));
        assertEquals("1234 ms", Format.milliseconds(1234));
        assertEquals("12.3 s", Format.milliseconds(12345));
        assertEquals("4.2 MiB", Format.bytes(4.2 * (1 << 20)));
        assertEquals("420 MiB", Format.bytes(420L << 20));
        assertEquals("∞ dB", Format.decibels(Double.POSITIVE_INFINITY));
    }

    @Test
    public void thePeakIsWhatLinuxSays() throws IOException {
        File process = folder.getRoot();
        try (OutputStream out = new FileOutputStream(new File(process, "status"))) {
            out.write("Name:\tapp\nVmPeak:\t 999 kB\nVmHWM:\t  123456 kB\nVmRSS:\t 7 kB\n"
                    .getBytes(StandardCharsets.US_ASCII));
        }
        assertEquals(123456, new PeakMemory(process).kibibytes());
    }

    @Test
    public void withoutAnAnswerThereIsNoPeak() {
        assertEquals(-1, new PeakMemory(folder.getRoot()).kibibytes());
    }
}
