package org.edgehadanorm.core;

import java.io.IOException;

/** Whether a device makes the picture that the maker of a bundle made. */
public final class SelfCheck {
    private final Bundle bundle;
    private final Generator generator;
    private final PictureReader reader;

    public SelfCheck(Bundle bundle, ModuleRunner.Loader loader, PictureReader reader) {
        this.bundle = bundle;
        this.generator = new Generator(bundle, loader);
        this.reader = reader;
    }

    /** Draws the golden sample. Throws BundleException where there is none to compare with. */
    public Result run(Listener listener) throws RunnerException, BundleException, Cancelled {
        Golden golden = bundle.golden().orElseThrow(() -> new BundleException(
                "bundle " + bundle.name() + " has no golden sample to check this device with"));
        Picture expected;
        try {
            expected = reader.read(golden.file());
        } catch (IOException error) {
            throw new BundleException("bundle " + bundle.name() + ": its golden picture cannot be read: "
                    + Text.of(error) + "; copy the bundle again", error);
        }
        Picture drawn = generator.generate(golden.request(), listener);
        if (drawn.width() != expected.width() || drawn.height() != expected.height()) {
            throw new BundleException("bundle " + bundle.name() + ": its golden picture has " + expected.width() + " x "
                    + expected.height() + " pixels, its programs draw " + drawn.width() + " x " + drawn.height()
                    + "; export the bundle again");
        }
        return new Result(golden.psnrDb(), drawn, expected);
    }

    /** How near the device's picture is to the golden one. */
    public static final class Result {
        private final double needed;
        private final Picture drawn;
        private final Picture expected;

        Result(double needed, Picture drawn, Picture expected) {
            this.needed = needed;
            this.drawn = drawn;
            this.expected = expected;
        }

        /** Infinite where the pictures are equal. */
        public double psnrDb() {
            return drawn.psnr(expected);
        }

        /** PSNR in dB that it takes to pass. */
        public double needed() {
            return needed;
        }

        public boolean passed() {
            return psnrDb() >= needed;
        }

        /** This device's picture. */
        public Picture drawn() {
            return drawn;
        }

        /** The bundle's picture. */
        public Picture expected() {
            return expected;
        }
    }
}
