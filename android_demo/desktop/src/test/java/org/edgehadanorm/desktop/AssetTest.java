package org.edgehadanorm.desktop;

import static org.junit.Assert.assertEquals;

import java.io.File;
import java.io.FileInputStream;
import java.io.InputStream;
import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.BundleZip;
import org.edgehadanorm.core.Generator;
import org.edgehadanorm.core.Listener;
import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Progress;
import org.edgehadanorm.demo.ExecuTorchRunner;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The bundle that a build of the app may bring, as a first start unpacks it. */
public final class AssetTest {
    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();

    @Test
    public void theBundleInTheAppDrawsWhatItDrewBeforeItWasZipped() throws Exception {
        File target = new File(folder.getRoot(), "reference");
        try (InputStream zip = new FileInputStream(System.getProperty("asset"))) {
            BundleZip.unpack(zip, target, Progress.NONE);
        }
        Bundle bundle = Bundle.open(target, Progress.NONE);
        Case one = Case.named("hadanorm-w4a8 0");
        Picture picture = new Generator(bundle, ExecuTorchRunner.loader(1)).generate(one.request(), Listener.NONE);
        assertEquals(one.pixels(), Digest.of(picture));
    }
}
